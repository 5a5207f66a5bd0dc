//! The service beside a model of what it means: after each step of any sequence, both have answered the same.
//!
//! The model is written anew, from the reference of the service and not from its code, as plainly as can be: an item is a map,
//! a table is a map of items, an index is the items that have its keys, sorted. It knows nothing of stores, pages or records.
//! What it answers is compared whole: values, attributes that are returned, codes of refusals, reasons of transactions, counts,
//! keys where pages end. At the end of a sequence the tables' streams must have exactly the changes that the model saw.
//!
//! `DUNLIN_CASES` is how many sequences an engine gets.
//!
//! Start reading at `play`, then `world`, then `run`.

mod expressions;
mod pages;
mod run;
mod steps;
mod text;
mod values;
mod world;

use std::cell::{Cell, RefCell};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use serde_json::json;

use super::Bench;
use super::engines::{Engine, Nodes, asked_for};
use run::Run;
use steps::Step;

/// Most steps of a sequence.
const STEPS_MAX: usize = 40;
/// How many sequences go into one store, of which each leaves the descriptions of its streams.
const RUNS_MAX: usize = 100;

/// One sequence, over tables of its own.
async fn play(nodes: &[Bench], number: usize, steps: &[Step]) {
    let mut run = Run::new(nodes, number).await;
    for step in steps {
        run.step(step).await;
    }
    for table in 0..2 {
        run.describe(table).await;
    }
    run.check_streams().await;
    for name in &run.names {
        nodes[0].ok("DeleteTable", json!({ "TableName": name })).await;
    }
    while nodes[0].service.sweep().await.unwrap() > 0 {}
}

/// Any sequences over one engine. One that fails is made as short as can be, and told.
fn all_answers_are_the_models(engine: Engine, cases: u32) {
    let config = Config {
        cases: asked_for().unwrap_or(cases),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let opened: RefCell<Option<Nodes>> = RefCell::new(None);
    let played = Cell::new(0usize);
    let sequences =
        (steps::first_puts(), prop::collection::vec(steps::step(), 1..STEPS_MAX)).prop_map(|(puts, steps)| {
            let puts = puts.into_iter().map(|put| Step::Write(put, "NONE"));
            puts.chain(steps).collect::<Vec<_>>()
        });
    let result = TestRunner::new(config).run(&sequences, |steps| {
        let number = played.replace(played.get() + 1);
        if number.is_multiple_of(RUNS_MAX) {
            opened.replace(Some(runtime.block_on(engine.open())));
        }
        let nodes = opened.borrow();
        runtime.block_on(play(&nodes.as_ref().unwrap().nodes, number, &steps));
        Ok::<_, TestCaseError>(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, steps)) => panic!("{engine:?}: {why}: {steps:?}"),
        Err(TestError::Abort(why)) => panic!("{engine:?}: {why}"),
    }
}

#[test]
fn in_memory() {
    all_answers_are_the_models(Engine::Memory, 128);
}

#[test]
fn on_disk() {
    all_answers_are_the_models(Engine::Embedded, 24);
}

#[test]
fn encrypted() {
    all_answers_are_the_models(Engine::Encrypted, 12);
}

#[test]
fn on_postgres() {
    all_answers_are_the_models(Engine::Postgres, 8);
}

#[test]
fn on_two_nodes() {
    all_answers_are_the_models(Engine::TwoNodes, 8);
}
