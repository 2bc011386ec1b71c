//! README's example of a change: it compiles, and does what README says.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::json;

use crate::support::{Server, is_skipped_under_wine};

#[test]
fn a_fourth_endpoint_is_added_as_readme_says() {
    if is_skipped_under_wine("a build of the program, which is the same as on this system") {
        return;
    }
    let readme = include_str!("../../README.md").replace("\r\n", "\n");
    let handler = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a handler");
    let arm = readme.split('`').find(|quoted| quoted.contains("=> version::get_version")).expect("an arm");
    let folder = tempfile::TempDir::new().expect("a folder");
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["src", "data"] {
        copy(&project.join(name), &folder.path().join(name));
    }
    fs::copy(project.join("Cargo.lock"), folder.path().join("Cargo.lock")).expect("a copy");
    // Under another name, so that it does not take the place of the program.
    let manifest = fs::read_to_string(project.join("Cargo.toml")).expect("Cargo.toml");
    let program = manifest.split("[[test]]").next().expect("a beginning").replace("\"cleaner-test", "\"changed-test");
    let rest = manifest.split("harness = false").nth(1).expect("what is behind the tests");
    fs::write(folder.path().join("Cargo.toml"), program + rest).expect("a manifest");
    fs::write(folder.path().join("src/api/version.rs"), handler).expect("a handler");
    let api = fs::read_to_string(project.join("src/api.rs")).expect("api.rs").replace("\r\n", "\n");
    let last = "            (_, path) => ";
    let api =
        api.replace("mod tasks;", "mod tasks;\nmod version;").replace(last, &format!("            {arm}\n{last}"));
    fs::write(folder.path().join("src/api.rs"), api).expect("an edit");

    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the folder of all that is built");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet", "--target-dir"])
        .arg(target)
        .current_dir(&folder)
        .output()
        .expect("cargo can be started");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    let program = target.join("debug").join(format!("changed-test-server{}", env::consts::EXE_SUFFIX));
    let server = Server::launch(&mut Command::new(program));
    let (response, event) = server.recorded(|server| server.get("/xyz/api/cleaner/version"));
    assert_eq!(response.json(), json!({ "version": "1.2" }));
    assert_eq!(event["findings"], json!(["the request accepts nothing"]));
    server.wait_for_line(|line| line == "    finding: the request accepts nothing");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let copied = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &copied);
        } else {
            fs::copy(&path, &copied).expect("a copy");
        }
    }
}
