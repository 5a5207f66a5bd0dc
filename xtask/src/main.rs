//! Development tasks, each in a module of its own: `cargo run -p xtask -- TASK`.
//!
//! | task      | does                                                             |
//! |-----------|------------------------------------------------------------------|
//! | `tidy`    | checks the house rules                                           |
//! | `codegen` | writes the tables of the AWS wire from the public service models  |

mod codegen;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "a command-line tool speaks on its standard error")]
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    match task.as_str() {
        "tidy" => {
            let findings = tidy::check(Path::new("."));
            for finding in &findings {
                eprintln!("{finding}");
            }
            if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        "codegen" => match codegen::run(&rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("xtask codegen: {error:#}");
                ExitCode::FAILURE
            }
        },
        other => {
            eprintln!("no task {other:?}; there are: tidy, codegen");
            ExitCode::FAILURE
        }
    }
}
