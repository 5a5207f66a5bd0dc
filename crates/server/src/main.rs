//! The program `dunlin`: a server, its spawner, or a client of a running server, by its arguments.

use std::process::ExitCode;

fn main() -> ExitCode {
    let done = match cli::parse() {
        cli::Task::Done(code) => return code,
        cli::Task::Spawner => sandbox::process::spawner_main(),
        cli::Task::Doctor(options) => server::doctor::run(&options),
        cli::Task::Serve(mode, serve) => server::run(mode, serve),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::fail(&error);
            ExitCode::FAILURE
        }
    }
}
