//! The command line: what it refuses, and what it says about itself.

use crate::support::run;

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
    for option in ["--port", "--host", "--cert", "--key", "--data", "--record", "--timeout"] {
        let sentence = misuse(&[option]);

        assert!(sentence.contains(option), "{option} without a value: {sentence}");
    }
    assert!(misuse(&["--strict=yes"]).contains("--strict"));
    assert!(misuse(&["file.txt"]).contains("file.txt"));
}

#[test]
fn help_lists_every_option_on_standard_output() {
    let help = run(&["--help"]);

    assert_eq!(help.code, Some(0));
    assert_eq!(help.stderr, "");
    for option in OPTIONS {
        let listed = help.stdout.lines().any(|line| line.trim_start().starts_with(option));
        assert!(listed, "{option} in:\n{}", help.stdout);
    }
}

#[test]
fn version_is_that_of_the_package() {
    let version = run(&["--version"]);

    assert_eq!(version.code, Some(0));
    assert_eq!(version.stderr, "");
    let expected = concat!("cleaner-test-server ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(version.stdout, expected);
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

const OPTIONS: [&str; 14] = [
    "--port",
    "--host",
    "--http",
    "--cert",
    "--key",
    "--data",
    "--write-data",
    "--record",
    "--strict",
    "--timeout",
    "--max-upload",
    "--exit-on-stdin-close",
    "--help",
    "--version",
];

#[test]
fn a_forgotten_value_is_not_the_next_option() {
    for option in ["--port", "--host", "--data", "--record", "--write-data", "--timeout"] {
        let sentence = misuse(&[option, "--strict"]);

        assert!(sentence.contains(option) && sentence.contains("needs a value"), "{sentence}");
    }
}
