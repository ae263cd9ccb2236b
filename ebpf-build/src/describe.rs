//! Shows a command as one could type it into a shell, for errors and progress.
use std::{ffi::OsStr, iter, process::Command};

/// The command with the variables it sets, but without those it removes and without its PATH.
pub fn describe(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter(|(name, _)| *name != "PATH")
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quote(value?))));
    let words = iter::once(command.get_program()).chain(command.get_args()).map(quote);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quote(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    if text.contains(char::is_control) {
        // Cargo separates flags by a control character, which bash can write.
        return format!("$'{}'", text.replace('\'', "\\'").replace('\x1f', "\\x1f"));
    }
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.into_owned() } else { format!("'{text}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_shows_as_one_types_it() {
        let mut command = Command::new("cargo");
        command.args(["test", "a b", ""]).env("KEY", "value").env("PATH", "/bin").env_remove("GONE");
        assert_eq!(describe(&command), "KEY=value cargo test 'a b' ''");
    }

    #[test]
    fn encoded_flags_stay_one_word() {
        let mut command = Command::new("cargo");
        command.env("FLAGS", "--cfg=a=\"b\"\x1f-C");
        assert_eq!(describe(&command), "FLAGS=$'--cfg=a=\"b\"\\x1f-C' cargo");
    }
}
