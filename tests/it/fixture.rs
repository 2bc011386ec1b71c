//! The pytest fixture of the Python package, with the program on the PATH: README's test exactly as it stands, and with
//! a mistake behind it. `.ci/wheel` runs it as it is installed.

use std::env;
use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::foreign::{is_installed, python};
use crate::process::{Finished, Process};
use crate::support::{is_skipped_under_wine, program_alone};

#[test]
fn the_test_of_readme_passes_as_it_stands() {
    let Some(finished) = pytest("") else { return };

    assert_eq!(finished.code, Some(0), "{}", finished.stdout);
    assert!(finished.stdout.contains("2 passed"), "{}", finished.stdout);
}

#[test]
fn the_fixture_fails_a_client_that_makes_a_mistake() {
    let mistake = "
def test_careless_client(cleaner_server):
    requests.post(cleaner_server.url + '/xyz/api/cleaner/tasks/report', data=b'PASSED')
";
    let Some(finished) = pytest(mistake) else { return };

    assert_eq!(finished.code, Some(1), "{}", finished.stdout);
    assert!(finished.stdout.contains("1 failed, 2 passed"), "{}", finished.stdout);
    let mut end = finished.stdout.lines().rev().take(5);
    // With what is to be done.
    let told = "report: the report is not sent as multipart/form-data (expected: the file as a form field, ";
    assert!(end.any(|line| line.starts_with(told)), "{}", finished.stdout);
}

/// README's text with `more` behind it; `None` where it cannot be run.
fn pytest(more: &str) -> Option<Finished> {
    if is_skipped_under_wine("Python, which runs outside of wine and cannot open the paths in ready.json") {
        return None;
    }
    let python = python();
    if !is_installed(&python, &["-c", "import pytest, requests"], "the pytest fixture") {
        return None;
    }
    let readme = include_str!("../../README.md").replace("\r\n", "\n");
    let text = readme.split("```python\n").nth(1).and_then(|rest| rest.split("```").next());
    let folder = TempDir::new().expect("a folder for the test");
    fs::write(folder.path().join("test_client.py"), text.expect("README has a test").to_owned() + more)
        .expect("a test");
    let (home, _executable) = program_alone();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([home.path().to_owned()].into_iter().chain(env::split_paths(&path)));
    let mut command = Command::new(python);
    command.args(["-B", "-m", "pytest", "-p", "no:cacheprovider", "-p", "cleaner_test_server.pytest_plugin"]);
    command.arg("test_client.py").current_dir(folder.path()).env("PATH", path.expect("the folder's name is plain"));
    // The plugin of the repository, also where the package is installed.
    command.env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/src/python"));
    // Nobody listens there, and the server is not asked for through it.
    command.env("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1").env("https_proxy", "http://127.0.0.1:9");
    Some(Process::spawn(&mut command).finish())
}
