//! Every command that the documentation shows can be given: it is parsed as the program
//! itself would parse it.
//!
//! What is looked at are fenced and indented blocks, where a line is a command when the
//! shell would start `annals`, and spans in backticks that begin with `annals`. A word in
//! capitals stands for whatever fits there, and `…` for what is left out.

use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use crate::Cli;

/// Pages that are made from the program, and therefore right.
const MADE: [&str; 2] = ["reference-cli.md", "reference-json.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn pages(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md")
            && !MADE.iter().any(|made| path.ends_with(made))
        {
            found.push(path);
        }
    }
}

/// The words of a command and where the shell ends it, as far as documentation goes:
/// quotes, comments, what follows `|`, `&&` and `;`, and redirections.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut letters = line.chars().peekable();
    let end = |word: &mut Option<String>, commands: &mut Vec<Vec<String>>| {
        if let (Some(word), Some(last)) = (word.take(), commands.last_mut()) {
            last.push(word);
        }
    };
    while let Some(letter) = letters.next() {
        match letter {
            '\'' | '"' => {
                let quoted: String = letters.by_ref().take_while(|next| *next != letter).collect();
                word.get_or_insert_default().push_str(&quoted);
            }
            '\\' => word.get_or_insert_default().extend(letters.next()),
            '#' if word.is_none() => break,
            '|' | '&' | ';' => {
                end(&mut word, &mut commands);
                commands.push(Vec::new());
            }
            // What is read or written by the shell is none of our words.
            '<' | '>' => {
                end(&mut word, &mut commands);
                while letters.next_if(|next| next.is_whitespace()).is_some() {}
                while letters.next_if(|next| !next.is_whitespace()).is_some() {}
            }
            letter if letter.is_whitespace() => end(&mut word, &mut commands),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    end(&mut word, &mut commands);
    commands
}

/// From `annals` on, where the shell would start that.
fn ours(words: Vec<String>) -> Option<Vec<String>> {
    let is_ours = |word: &str| word == "annals" || word.ends_with("bin/annals");
    // `kubectl exec … -- annals …`, and `VARIABLE=value annals …`.
    let before = |word: &str| word == "--" || word == "$" || word == "sudo" || word.contains('=');
    let at = words.iter().position(|word| is_ours(word))?;
    let starts = at == 0 || words.get(at - 1).is_some_and(|word| before(word));
    starts.then(|| words.into_iter().skip(at).collect())
}

/// Blocks in which every line is for a shell.
const SHELLS: [&str; 4] = ["sh", "bash", "console", "shell"];

fn is_noun(word: &str) -> bool {
    Cli::command().find_subcommand(word).is_some()
}

/// All commands of a page, each with the line on which it begins.
fn shown(page: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let (mut fenced, mut shell) = (false, false);
    let (mut text, mut block) = (String::new(), String::new());
    let mut begun = 0;
    for (number, line) in (1..).zip(page.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            shell = SHELLS.iter().any(|shell| line.trim_start().trim_start_matches('`') == *shell);
            text.push('\n');
        } else if fenced || (line.starts_with("    ") && text.ends_with("\n\n")) {
            if block.is_empty() {
                begun = number;
            }
            block.push_str(line.trim_start().trim_start_matches("$ "));
            if block.ends_with('\\') {
                block.pop();
                continue;
            }
            let meant = commands(&std::mem::take(&mut block)).into_iter().filter_map(ours);
            // Elsewhere than in a shell a line may begin with our name and mean something else.
            let meant = meant.filter(|words| shell || words.get(1).is_some_and(|word| is_noun(word)));
            found.extend(meant.map(|words| (begun, words)));
        } else {
            text.push_str(line.trim_start_matches("> "));
        }
        text.push('\n');
    }
    // Every second part is between backticks.
    let mut number = 1;
    for (place, part) in text.split('`').enumerate() {
        if place % 2 == 1 {
            let spans = commands(&part.replace('\n', " ")).into_iter();
            found.extend(spans.filter_map(ours).map(|words| (number, words)));
        }
        number += part.matches('\n').count();
    }
    found
}

/// What stands for anything, as what fits.
fn filled(word: &str, number: bool) -> String {
    let stands = word.len() > 1 || word == "N" || word == "P";
    let capitals =
        stands && word.chars().all(|letter| letter.is_ascii_uppercase() || matches!(letter, '_' | ':' | '-' | '|'));
    match (capitals && word.chars().any(|letter| letter.is_ascii_uppercase()), number) {
        (true, true) => "1".to_owned(),
        (true, false) => "host:2113".to_owned(),
        (false, _) => word.to_owned(),
    }
}

/// Why the program would not take it.
fn refusal(words: &[String]) -> Option<String> {
    let known = words.iter().skip(1).try_fold(Cli::command(), |command, word| command.find_subcommand(word).cloned());
    // The command is named, not given.
    if known.is_some() {
        return None;
    }
    let left_out = words.iter().any(|word| word.contains('…'));
    let without: Vec<&String> = words.iter().filter(|word| *word != "…").collect();
    let with: Vec<&String> = words.iter().collect();
    let attempt =
        |words: &[&String], number| Cli::try_parse_from(words.iter().map(|word| filled(word, number))).map(|_| ());
    let error =
        attempt(&without, false).or_else(|_| attempt(&without, true)).or_else(|_| attempt(&with, false)).err()?;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            None
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::MissingSubcommand if left_out => None,
        _ => Some(error.to_string()),
    }
}

#[test]
fn every_command_in_the_documentation_can_be_given() {
    let mut files = vec![root().join("README.md")];
    pages(&root().join("docs"), &mut files);
    let (mut count, mut wrong) = (0, Vec::new());
    for file in &files {
        for (line, words) in shown(&fs::read_to_string(file).expect("a page")) {
            count += 1;
            if let Some(why) = refusal(&words) {
                wrong.push(format!("{}:{line}: {}\n{why}", file.display(), words.join(" ")));
            }
        }
    }
    assert!(files.len() > 60 && count > 200, "{count} commands in {} pages", files.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn commands_are_found_where_a_reader_finds_them() {
    let page = "Say `annals stream ls` or\n`annals cluster\nstatus`.\n\n\
                \x20   annals node info # here\n\n\
                ```console\n$ A=1 annals explain 1001 && annals version | cat\nannals is a word: annals.example\n\
                kubectl exec a -- /usr/local/bin/annals cluster replace NODE \\\n  --with HOST:PORT\n```\n";
    let found: Vec<String> = shown(page).into_iter().map(|(_, words)| words.join(" ")).collect();
    assert_eq!(
        found,
        [
            "annals node info",
            "annals explain 1001",
            "annals version",
            "annals is a word: annals.example",
            "/usr/local/bin/annals cluster replace NODE --with HOST:PORT",
            "annals stream ls",
            "annals cluster status",
        ]
    );
}

#[test]
fn what_the_program_would_refuse_is_found() {
    let refused = |line: &str| refusal(&commands(line).remove(0)).is_some();
    for line in ["annals cluster status", "annals cluster replace", "annals cluster scale N", "annals psub create …"]
    {
        assert!(!refused(line), "{line}");
    }
    for line in
        ["annals cluster heal", "annals stream read s --limt 1", "annals stream read", "annals stream ls …x --y"]
    {
        // A command that is only named needs no arguments.
        assert_eq!(refused(line), line != "annals stream read", "{line}");
    }
}
