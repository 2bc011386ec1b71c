//! The pytest fixture of README: exactly that text, run with the program on the PATH.

use std::env;
use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::foreign::{is_installed, python};
use crate::process::{Finished, Process};
use crate::support::{is_skipped_under_wine, program_alone};

#[test]
fn the_fixture_of_readme_runs_as_it_stands() {
    let Some(finished) = pytest("") else { return };

    assert_eq!(finished.code, Some(0), "{}", finished.stdout);
    assert!(finished.stdout.contains("1 passed"), "{}", finished.stdout);
}

#[test]
fn the_fixture_of_readme_fails_a_client_that_makes_a_mistake() {
    let mistake = "
def test_careless_client(server):
    url = server['url'] + '/xyz/api/cleaner/tasks/report'
    requests.post(url, data=b'PASSED', verify=server['certificate'])
";
    let Some(finished) = pytest(mistake) else { return };

    assert_eq!(finished.code, Some(1), "{}", finished.stdout);
    assert!(finished.stdout.contains("1 error"), "{}", finished.stdout);
    let sentence = "the report is not sent as multipart/form-data";
    assert!(finished.stdout.contains(sentence), "{}", finished.stdout);
}

/// README's text with `more` behind it; `None` where it cannot be run.
fn pytest(more: &str) -> Option<Finished> {
    if is_skipped_under_wine("Python, which runs outside of wine and cannot open the paths in ready.json") {
        return None;
    }
    let python = python();
    if !is_installed(&python, &["-c", "import pytest, requests"], "the fixture of README.md") {
        return None;
    }
    let readme = include_str!("../../README.md").replace("\r\n", "\n");
    let text = readme.split("```python\n").nth(1).and_then(|rest| rest.split("```").next());
    let folder = TempDir::new().expect("a folder for the test");
    fs::write(folder.path().join("test_client.py"), text.expect("README has a fixture").to_owned() + more)
        .expect("a test");
    let (home, _executable) = program_alone();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([home.path().to_owned()].into_iter().chain(env::split_paths(&path)));
    let mut command = Command::new(python);
    command.args(["-m", "pytest", "-p", "no:cacheprovider", "test_client.py"]).current_dir(folder.path());
    command.env("PATH", path.expect("the folder's name is plain")).env("no_proxy", "localhost");
    Some(Process::spawn(&mut command).finish())
}
