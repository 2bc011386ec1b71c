//! GET /xyz/api/cleaner/tasks: the list of tasks. Also the check of the id that the other two endpoints are given.

use super::data::{Data, Ids};
use crate::message::{Finding, Reply};
use crate::text::{quoted, shown};

pub fn get_tasks(data: &Data) -> Result<Reply, String> {
    Ok(Reply::json(200, data.tasks()?))
}

/// What is wrong with the id of a task that a client sent, if anything is.
pub fn check_id(id: Option<&str>, ids: &Ids) -> Option<Finding> {
    let (status, sentence) = match (id, ids) {
        (None, _) => (400, "the request does not say which task it is for: it has no id".to_owned()),
        (Some(_), None) => return None,
        (Some(id), Some(ids)) if ids.iter().any(|listed| listed == id) => return None,
        (Some(id), _) if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) => {
            (400, format!("the id {} is not a number", quoted(id.as_bytes())))
        }
        (Some(id), _) => (404, format!("there is no task with the id {}", shown(id))),
    };
    let expected =
        format!("id=N, with the id of a task in tasks.json: {}", ids.as_deref().unwrap_or_default().join(", "));
    let received = id.map_or_else(|| "no id".to_owned(), |id| format!("id={}", shown(id)));
    Some(Finding::new(status, sentence, &expected, &received))
}
