//! The policy beside a fixed keep-alive of ten minutes, and one who knows every call.

use super::replay::{Bill, Fixed, Policy, Wanted, oracle, replay, total};
use super::trace::{Function, Source};
use crate::keepalive::Habits;

const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];
/// Functions of a trace in the tests; `DUNLIN_FUNCTIONS` says another number.
const FUNCTIONS: usize = 16;
/// From so many functions on the promise holds for each seed; below, few functions with most of the calls decide.
const ENOUGH: usize = 1_000;

/// The policy, told of the next time of each schedule that the platform itself keeps.
struct Learning {
    habits: Habits,
    period_us: Option<u64>,
}

impl Learning {
    fn of(function: &Function) -> Self {
        let mut habits = Habits::new(function.memory_mb);
        habits.started(function.start_us);
        let period_us = match function.source {
            Source::Timer { period, known: true, .. } => Some(period as u64),
            _ => None,
        };
        Self { habits, period_us }
    }
}

impl Policy for Learning {
    fn began(&mut self, now_us: u64, running: usize) {
        self.habits.began(now_us, running);
        if let Some(period_us) = self.period_us {
            self.habits.expect(now_us + period_us);
        }
    }

    fn ended(&mut self, now_us: u64, running: usize, length_us: u64) {
        // On generated days a call takes no longer for being the first.
        self.habits.ended(now_us, running, length_us, false);
    }

    fn wanted(&mut self, now_us: u64, running: usize) -> Wanted {
        let wanted = self.habits.wanted(now_us, running);
        Wanted { environments: wanted.environments, look_at_us: wanted.look_at_us }
    }
}

fn line(seed: u64, name: &str, bill: &Bill, fixed: &Bill) -> String {
    format!(
        "seed {seed} {name:9} calls {:>9} cold {:>7} ({:.2}) starts {:>8} idle {:>9.0} GB-s ({:.3}) busy {:>8.0} GB-s",
        bill.calls,
        bill.cold,
        bill.cold as f64 / fixed.cold as f64,
        bill.starts,
        bill.idle_gb_s,
        bill.idle_gb_s / fixed.idle_gb_s,
        bill.busy_gb_s,
    )
}

/// The promise: at most half of the cold calls of ten fixed minutes, at a third of its idle memory. Over few functions
/// it is asked of all seeds together, and of memory with a margin.
#[test]
fn half_the_cold_calls_of_ten_minutes_at_a_third_of_its_memory() {
    let functions = std::env::var("DUNLIN_FUNCTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(FUNCTIONS);
    let one = |seed| {
        let fixed = total(seed, functions, |function| replay(function, Fixed::minutes(10)));
        let learning = total(seed, functions, |function| replay(function, Learning::of(function)));
        let oracle = total(seed, functions, oracle);
        println!("{}", line(seed, "fixed", &fixed, &fixed));
        println!("{}", line(seed, "learning", &learning, &fixed));
        println!("{}", line(seed, "oracle", &oracle, &fixed));
        assert_eq!((learning.calls, oracle.calls, oracle.cold), (fixed.calls, fixed.calls, 0));
        if functions >= ENOUGH {
            assert!(2 * learning.cold <= fixed.cold, "seed {seed}: cold calls");
            assert!(3.0 * learning.idle_gb_s <= fixed.idle_gb_s, "seed {seed}: idle memory");
        }
        (fixed, learning)
    };
    let (mut fixed, mut learning) = (Bill::default(), Bill::default());
    let all: Vec<(Bill, Bill)> = std::thread::scope(|scope| {
        SEEDS.map(|seed| scope.spawn(move || one(seed))).into_iter().map(|seed| seed.join().unwrap()).collect()
    });
    for (fixed_of, learning_of) in all {
        fixed += fixed_of;
        learning += learning_of;
    }
    println!("{}", line(0, "together", &learning, &fixed));
    assert!(2 * learning.cold <= fixed.cold && 2.5 * learning.idle_gb_s <= fixed.idle_gb_s);
}
