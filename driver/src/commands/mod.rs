//! One file for each group of commands: its flags, and the call into the library.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod check;
pub(crate) mod data;
pub(crate) mod demo;
pub(crate) mod devices;
pub(crate) mod dump;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod judge;
pub(crate) mod pairs;
pub(crate) mod plan;
pub(crate) mod prompts;
pub(crate) mod pull;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod tasks;
pub(crate) mod train;

use crate::app::App;
use crate::args::Command;
use anyhow::Result;

/// Runs the command that was typed.
pub(crate) fn run(app: &App, command: Command) -> Result<()> {
    match command {
        Command::Demo(a) => demo::run(app, &a),
        Command::Devices => devices::run(app),
        Command::Check(a) => check::run(app, &a),
        Command::Bench(a) => bench::run(app, &a),
        Command::Plan(a) => plan::run(app, &a),
        Command::Pull(a) => pull::run(app, &a),
        Command::Generate(a) => generate::run(app, &a),
        Command::Chat(a) => chat::run(app, &a),
        Command::Run(a) => run::run(app, &a),
        Command::Status(a) => run::status(app, &a),
        Command::Report(a) => report::run(app, &a),
        Command::Prompts(a) => prompts::run(app, &a),
        Command::Judge(a) => judge::run(app, &a),
        Command::Pairs(a) => pairs::run(app, &a),
        Command::Data(kind) => data::run(app, &kind),
        Command::Sft(a) => train::sft(app, &a),
        Command::Dpo(a) => train::dpo(app, &a),
        Command::Eval(a) => eval::run(app, &a),
        Command::Export(a) => export::run(app, &a),
        Command::Dump(kind) => dump::run(app, &kind),
    }
}
