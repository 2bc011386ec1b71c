//! GET /xyz/api/cleaner/tasks: the list of tasks. Also the check of the id that the other two endpoints are given.

use super::data::{Data, Ids};
use crate::message::{Finding, Reply};
use crate::text::{quoted, shown};

pub fn get_tasks(data: &Data) -> Result<Reply, String> {
    Ok(Reply::json(200, data.tasks()?))
}

/// What is wrong with the ids of a task that a client sent, of which the first counts, if anything is.
pub fn check_id(ids: &[String], listed: &Ids) -> Option<Finding> {
    let id = ids.first();
    let other = ids.iter().find(|other| Some(*other) != id);
    let sent: Vec<String> = id.into_iter().chain(other).map(|id| format!("id={}", shown(id))).collect();
    let (status, sentence) = match (id, other) {
        (None, _) => (400, "the request does not say which task it is for: it has no id".to_owned()),
        (Some(_), Some(_)) => (400, format!("the request is for two tasks: {}", sent.join(" and "))),
        (Some(id), None) if listed.as_ref().is_none_or(|listed| listed.contains(id)) => return None,
        (Some(id), None) if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) => {
            (400, format!("the id {} is not a number", quoted(id.as_bytes())))
        }
        (Some(id), None) => (404, format!("there is no task with the id {}", shown(id))),
    };
    let listed = listed.as_deref().unwrap_or_default().join(", ");
    let listed = if listed.is_empty() { "which lists none".to_owned() } else { listed };
    let expected = format!("id=N, with the id of a task in tasks.json: {listed}");
    let received = if sent.is_empty() { "no id".to_owned() } else { sent.join(", ") };
    Some(Finding::new(status, sentence, &expected, &received))
}
