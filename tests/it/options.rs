//! The command line: what it refuses, and what it says about itself.

use crate::support::{run, text};

#[test]
fn a_wrong_option_is_exit_2_with_the_nearest_one() {
    for (wrong, nearest) in
        [("--prot", "--port"), ("--recrod", "--record"), ("--writedata", "--write-data"), ("--Help", "--help")]
    {
        let sentence = misuse(&[wrong]);

        assert!(sentence.contains(wrong), "{sentence}");
        assert!(sentence.contains(nearest), "{wrong}: {sentence}");
    }
}

#[test]
fn a_wrong_value_is_exit_2_with_the_option_and_the_value() {
    for (option, value) in [
        ("--port", "abc"),
        ("--port", "65536"),
        ("--port", "-1"),
        ("--port", ""),
        ("--timeout", "soon"),
        ("--timeout", "0"),
        ("--max-upload", "many"),
        ("--max-upload", "5X"),
        ("--max-upload", "99999999999999999999G"),
    ] {
        let sentence = misuse(&[&format!("{option}={value}")]);

        assert!(sentence.contains(option), "{option} {value}: {sentence}");
        assert!(sentence.contains(value), "{option} {value}: {sentence}");
    }
    for option in ["--port", "--host", "--cert", "--key", "--data", "--write-data", "--record", "--timeout"] {
        // The next option is not the forgotten value.
        for arguments in [&[option][..], &[option, "--strict"]] {
            let sentence = misuse(arguments);

            assert!(sentence.contains(option) && sentence.contains("needs a value"), "{arguments:?}: {sentence}");
        }
    }
    assert!(misuse(&["--strict=yes"]).contains("--strict"));
    assert!(misuse(&["file.txt"]).contains("file.txt"));
}

#[test]
fn all_arguments_are_looked_at_before_anything_is_written() {
    let parent = tempfile::TempDir::new().expect("a folder");
    let folder = parent.path().join("data");
    assert!(misuse(&["--write-data", text(&folder), "--bogus"]).contains("--bogus"));
    let both = run(&["--data", text(parent.path()), "--record", text(parent.path())]);
    assert_eq!((both.code, both.stderr.contains("one folder")), (Some(2), true), "{}", both.stderr);
    assert_eq!(std::fs::read_dir(parent.path()).expect("a folder").count(), 0);
    assert!(!folder.exists());
}

/// What every misuse is: exit code 2, and one sentence.
#[track_caller]
fn misuse(arguments: &[&str]) -> String {
    let refused = run(arguments);
    assert_eq!(refused.code, Some(2), "{arguments:?}: {}", refused.stderr);
    assert_eq!(refused.stdout, "", "{arguments:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    refused.stderr.trim_end().to_owned()
}
