//! What the project says of itself is true: README, --help, crate doc and dependencies agree with the program.

use crate::support::{Server, run};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).replace("\r\n", "\n")
}

fn help() -> String {
    let help = run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    help.stdout
}

/// The words of a text that begin with `--` and a letter.
fn options_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '-');
    let is_option = |word: &&str| word.strip_prefix("--").is_some_and(|name| name.starts_with(char::is_alphabetic));
    words.filter(is_option).map(str::to_owned).collect()
}

#[test]
fn readme_lists_the_endpoints_that_the_server_lists() {
    let server = Server::start(&[]);
    let answer: serde_json::Value = serde_json::from_slice(&server.get("/").body).expect("JSON");
    let endpoints = answer["endpoints"].as_array().expect("a list");
    let served: Vec<String> =
        endpoints.iter().map(|line| line.as_str().expect("text").replace(server.url(), "")).collect();
    let readme = read("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let listed: Vec<&str> = rows.filter(|row| row.contains(" /xyz/")).collect();
    // One more, as README says how to add it, is in no list of the server's.
    assert!(listed.starts_with(served.iter().map(String::as_str).collect::<Vec<_>>().as_slice()), "{listed:?}");
}

#[test]
fn help_lists_the_options_that_are_parsed() {
    let options = read("src/options.rs");
    let parsed: BTreeSet<String> =
        options.split("Long(\"").skip(1).map(|rest| format!("--{}", rest.split('"').next().expect("a name"))).collect();
    let help = help();
    assert_eq!(options_in(&help), parsed);
    for option in &parsed {
        let is_listed = |line: &str| {
            line.trim_start().split("  ").next().is_some_and(|names| names.split([',', ' ']).any(|name| name == option))
        };
        assert!(help.lines().any(|line| line.starts_with("  ") && is_listed(line)), "no line for {option} in:\n{help}");
    }
}

#[test]
fn every_option_that_readme_names_exists() {
    let known = options_in(&help());
    let foreign = ["--release", "--cacert", "--locked", "--target", "--path", "--url", "--ca"].map(str::to_owned);
    let unknown: Vec<String> = options_in(&read("README.md"))
        .into_iter()
        .filter(|name| !known.contains(name) && !foreign.contains(name))
        .collect();
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn readme_is_short_and_its_paths_exist() {
    let readme = read("README.md");
    assert!(readme.lines().count() < 150, "README.md has {} lines", readme.lines().count());
    for quoted in readme.split('`').skip(1).step_by(2).filter(|quoted| quoted.starts_with("tests/")) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(quoted).exists(), "{quoted} does not exist");
    }
}

/// So that each can be read at once.
#[test]
fn no_file_is_longer_than_360_lines_and_no_function_than_50() {
    for path in source_files() {
        let text = fs::read_to_string(&path).expect("text");
        let lines: Vec<&str> = text.lines().take_while(|line| *line != "#[cfg(test)]").collect();
        assert!(lines.len() <= 360, "{} has {} lines", path.display(), lines.len());
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_end = |end: &&str| end.starts_with(&format!("{:indent$}}}", ""));
            if line.trim_start().trim_start_matches("pub ").starts_with("fn ") {
                let length = lines[at..].iter().position(is_end).expect("an end") + 1;
                assert!(length <= 50, "{}: {length} lines: {line}", path.display());
            }
        }
    }
}

fn source_files() -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let entries = ["", "front", "api", "journal"].map(|folder| fs::read_dir(source.join(folder)).expect("a folder"));
    let paths = entries.into_iter().flatten().map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
}

#[test]
fn the_python_package_is_small_and_ci_runs_the_test_of_readme() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/python/cleaner_test_server");
    let files = fs::read_dir(folder).expect("the package").map(|entry| entry.expect("an entry").path());
    let lines = |path: &Path| fs::read_to_string(path).expect("text").lines().count();
    let total: usize = files.filter(|path| path.is_file()).map(|path| lines(&path)).sum();
    assert!(total < 120, "the package has {total} lines");
    let readme = read("README.md");
    let blocks: Vec<&str> = readme.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.iter().map(|block| block.lines().count()).collect::<Vec<_>>(), [8]);
    assert!(read(".ci/wheel").contains("sed -n '/^```python$/,/^```$/p' README.md"));
}

#[test]
fn readme_and_crate_doc_name_every_source_file() {
    let main = read("src/main.rs");
    let crate_doc: String = main.lines().take_while(|line| line.starts_with("//!")).collect();
    let code = read("README.md");
    let code = code.split("## The code, tests and builds").nth(1).expect("the chapter on the code");
    for module in main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')) {
        assert!(crate_doc.contains(module), "the crate doc does not name {module}");
        assert!(code.contains(&format!("`{module}`")), "README.md does not name {module}");
    }
}

/// What each file of src may import: only what stands above it here, so that no circle can come up. `main`, `options`
/// and a room's own files for the room itself are not listed.
const IMPORTS: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("stop", &["text"]),
    ("message", &["text"]),
    ("bridge", &["message"]),
    ("command", &["message", "stop", "text"]),
    ("journal/console", &["text"]),
    ("journal/record", &["message", "text"]),
    ("journal/coverage", &["text"]),
    ("journal/checklist", &["journal/coverage", "message", "text"]),
    ("journal", &["message", "text"]),
    ("rounds", &["command", "journal/console", "message", "stop", "text"]),
    ("front/listen", &["text"]),
    ("front/certificate", &["message", "text"]),
    ("front/socket", &[]),
    ("front/tls", &["front/socket", "message", "text"]),
    ("front/http1", &["message", "text"]),
    ("front/body", &["front/http1", "message", "text"]),
    ("front/answer", &["message", "text"]),
    ("front/fault", &["front/answer", "front/socket", "front/tls", "message", "text"]),
    ("front", &["bridge", "journal", "message", "text"]),
    ("api/data", &["text"]),
    ("api/tasks", &["api/data", "message", "text"]),
    ("api/download", &["api/data", "api/tasks", "message"]),
    ("api/part_head", &["message", "text"]),
    ("api/multipart", &["api/part_head", "text"]),
    ("api/report", &["api/data", "api/multipart", "api/part_head", "api/tasks", "journal/record", "message", "text"]),
    ("api", &["bridge", "journal/record", "message", "text"]),
];

#[test]
fn imports_run_one_way() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut known = Vec::new();
    for (file, allowed) in IMPORTS {
        assert!(allowed.iter().all(|import| known.contains(import)), "the list of {file} names what comes later");
        let mut found = imports(&source, file);
        // A room's own files come before it.
        found.retain(|import| !(known.contains(&import.as_str()) && import.starts_with(&format!("{file}/"))));
        assert_eq!(found, BTreeSet::from_iter(allowed.iter().map(ToString::to_string)), "imports of {file}");
        known.push(file);
    }
    known.extend(["main", "options"]);
    let name = |path: PathBuf| path.strip_prefix(&source).expect("within src").with_extension("");
    let names = source_files().into_iter().map(|path| name(path).to_string_lossy().replace('\\', "/"));
    let mut files: Vec<String> = names.collect();
    files.sort();
    known.sort_unstable();
    assert_eq!(files, known, "the files of src, and the list");
}

/// The files named by the `use` lines of a file, such as `front/tls`.
fn imports(source: &Path, file: &str) -> BTreeSet<String> {
    let exists = |name: &String| source.join(name).with_extension("rs").exists();
    let text = read(&format!("src/{file}.rs"));
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let paths = code.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("use "));
    let named = paths.filter_map(|path| {
        let words: Vec<&str> = path.split(['{', ';', ' ']).next()?.trim_end_matches("::").split("::").collect();
        let path = match words.as_slice() {
            ["crate", rest @ ..] => rest.join("/"),
            ["super", rest @ ..] => format!("{}/{}", file.split('/').next()?, rest.join("/")),
            [own, ..] if exists(&format!("{file}/{own}")) => format!("{file}/{own}"),
            _ => return None,
        };
        // What is named is a file, or something in it.
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        ends.map(|end| path[..end].to_owned()).rfind(|name| exists(name) && name != file)
    });
    named.collect()
}

#[test]
fn version_is_that_of_cargo_toml_and_of_the_changelog() {
    let (version, told) = (env!("CARGO_PKG_VERSION"), run(&["--version"]));
    assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""));
    assert_eq!(told.stdout, format!("cleaner-test-server {version}\n"));
    assert!(read("CHANGELOG.md").contains(&format!("## {version}")));
}

/// Those for one system only, too: Cargo.lock knows them all.
#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = read("Cargo.toml");
    let tables = manifest.split("\n[").filter_map(|table| table.split_once("dependencies]\n"));
    let mut explained = BTreeSet::new();
    for (_, table) in tables {
        let mut above = "";
        for line in table.lines() {
            if let Some((name, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
                assert!(above.starts_with('#'), "no comment above {line}");
                explained.insert(name);
            }
            above = line;
        }
    }
    let lock = read("Cargo.lock");
    let locked = lock.split("name = \"cleaner-test-server\"\n").nth(1).expect("the package is locked");
    let locked = locked.split("dependencies = [").nth(1).and_then(|rest| rest.split(']').next()).expect("a list");
    assert_eq!(explained, locked.split('"').skip(1).step_by(2).collect());
}

#[test]
fn there_is_one_ring_one_rustls_and_no_async_runtime() {
    let lock = read("Cargo.lock");
    let count = |name: &str| lock.matches(&format!("name = \"{name}\"\n")).count();
    assert_eq!((count("ring"), count("rustls")), (1, 1));
    for name in ["tokio", "async-std", "smol", "mio", "hyper", "futures", "async-io", "polling"] {
        assert_eq!(count(name), 0, "{name} is in Cargo.lock");
    }
}

#[test]
fn every_endpoint_has_tests_under_its_last_word() {
    for row in read("README.md").lines().filter(|line| line.starts_with("| ") && line.contains(" /xyz/")) {
        let path = row.split_whitespace().find(|word| word.starts_with("/xyz/")).expect("a path");
        let word = path.rsplit('/').next().and_then(|end| end.split('?').next()).expect("a word");
        assert!(!read(&format!("tests/it/api/{word}.rs")).is_empty(), "{word}");
    }
}
