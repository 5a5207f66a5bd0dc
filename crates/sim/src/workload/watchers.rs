//! Watchers: who reads after every wake-up has seen the last state, once all is quiet.

use std::rc::Rc;

use bytes::Bytes;
use store::{Range, Version};

use crate::env::Env;
use crate::plan::Broken;
use crate::tasks::pause;

const PREFIXES: [&str; 5] = ["", "k/", "k/07", "s/", "q/"];

/// One watcher.
pub(crate) async fn watcher(env: Rc<Env>, number: u64) {
    let prefix = Bytes::from(*env.dice.pick(&PREFIXES));
    env.seen.borrow_mut().insert(number, (prefix.clone(), 0));
    let mut watch = env.watch(&prefix);
    loop {
        let read = env.range(&Range::prefix(prefix.clone()).rows(3)).await;
        if let Err(error) = read {
            return env.violated(format!("a watcher met {error}"));
        }
        let seen = env.model.borrow().current();
        env.seen.borrow_mut().insert(number, (prefix.clone(), seen));
        if env.is_broken(Broken::LateWatches) {
            pause().await;
            watch = env.watch(&prefix);
        }
        watch.changed().await;
        env.event(format_args!("watcher {number} wakes"));
    }
}

/// When nobody is woken any more: nothing has changed since each has read.
pub(crate) fn check(env: &Env) {
    let model = env.model.borrow();
    for (number, (prefix, seen)) in &*env.seen.borrow() {
        if model.changed(&Range::prefix(prefix.clone()), *seen, Version::MAX) {
            env.violated(format!("watcher {number} of {:?} has seen {seen} and slept on", prefix));
        }
    }
}
