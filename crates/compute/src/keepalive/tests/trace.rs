//! Generated days of calls: a seed in, the arrivals of each function out.
//!
//! The marginals follow what large providers have published: mean rates over eight decades with half of the functions
//! below one call an hour, exact timers, bursts, durations of about a second. The parameters below were chosen before
//! any policy was written against them and are not changed for one; what a published source does not tell is an
//! assumption and says so.
//!
//! | what                | is                                                                                   |
//! |---------------------|--------------------------------------------------------------------------------------|
//! | mean rate           | log-uniform, 0.0001 to 10,000 calls an hour, stratified over the functions           |
//! | timers, 30 %        | the nearest of cron's usual periods; half of them are known schedules (assumption)    |
//! | bursts, 50 %        | Poisson process modulated by two states, 95 % of the calls in bursts (assumption)     |
//! | steady, 20 %        | Poisson process that follows the time of day                                         |
//! | duration            | log-normal: a function's median around 1 s, its calls around that median             |
//! | memory, start       | sizes that are often chosen; log-normal around 30 ms (assumptions)                    |

use std::f64::consts::TAU;

const SECOND: f64 = 1e6;
const HOUR: f64 = 3_600.0 * SECOND;
/// One day, in microseconds.
pub(super) const DAY_US: u64 = 86_400_000_000;

/// Periods that timers have, in minutes.
const PERIODS_MIN: [f64; 14] =
    [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 180.0, 240.0, 360.0, 720.0, 1_440.0, 10_080.0];
/// Share of a burst's calls that come outside of it.
const STRAY: f64 = 0.05;
/// How much the rate of steady functions follows the time of day.
const DAILY: f64 = 0.5;

/// A repeatable source of numbers (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Above 0, at most 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -self.unit().ln() * mean
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (TAU * self.unit()).cos()
    }

    fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        median * (sigma * self.normal()).exp()
    }

    fn log_uniform(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.unit())
    }
}

/// What makes a function's calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Source {
    /// Exactly every so many microseconds; `known`: by a schedule that the platform itself keeps.
    Timer { period: f64, phase: f64, known: bool },
    /// Bursts of a mean length, with long quiet times of a mean length between them.
    Bursts { on: f64, off: f64, gap_on: f64, gap_off: f64 },
    /// One after another, independent; `gap` is the mean at the daily average.
    Steady { gap: f64, phase: f64 },
}

/// One function of a trace.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) rate_per_hour: f64,
    pub(super) source: Source,
    pub(super) memory_mb: u32,
    pub(super) start_us: u64,
    median_us: f64,
    dice: Dice,
}

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) at_us: u64,
    pub(super) duration_us: u64,
}

/// The functions of a seed.
pub(super) fn functions(seed: u64, count: usize) -> Vec<Function> {
    let mut dice = Dice::new(seed);
    // Which stratum of the rates a function gets; each kind of source is spread over all of them.
    (0..count)
        .map(|at| {
            let rate_per_hour = 1e-4 * 1e8f64.powf((at as f64 + dice.unit()) / count as f64);
            let source = match dice.unit() {
                kind if kind <= 0.3 => timer(&mut dice, rate_per_hour),
                kind if kind <= 0.8 => bursts(&mut dice, rate_per_hour),
                _ => Source::Steady { gap: HOUR / rate_per_hour, phase: dice.unit() * TAU },
            };
            let memory_mb = match dice.unit() {
                size if size <= 0.40 => 128,
                size if size <= 0.65 => 256,
                size if size <= 0.85 => 512,
                size if size <= 0.95 => 1_024,
                _ => 2_048,
            };
            Function {
                rate_per_hour,
                source,
                memory_mb,
                start_us: dice.log_normal(30_000.0, 1.0).clamp(1_000.0, 10e6) as u64,
                median_us: dice.log_normal(SECOND, 1.0).clamp(5_000.0, 300e6),
                dice: Dice::new(dice.next()),
            }
        })
        .collect()
}

fn timer(dice: &mut Dice, rate_per_hour: f64) -> Source {
    let wanted = 60.0 / rate_per_hour;
    let far = |minutes: &f64| (minutes / wanted).ln().abs();
    let nearest = PERIODS_MIN.iter().copied().min_by(|one, other| far(one).total_cmp(&far(other)));
    let period = nearest.unwrap_or(1.0) * 60.0 * SECOND;
    Source::Timer { period, phase: (dice.unit() * period / SECOND).floor() * SECOND, known: dice.unit() <= 0.5 }
}

fn bursts(dice: &mut Dice, rate_per_hour: f64) -> Source {
    let rate = rate_per_hour / HOUR;
    let on = dice.log_uniform(30.0, 1_800.0) * SECOND;
    // Calls of one burst: at least ten times as dense as the mean.
    let calls = dice.log_uniform(4.0, 400.0).max(10.0 * rate * on);
    let cycle = calls / rate;
    let off = cycle - on;
    Source::Bursts { on, off, gap_on: on / (calls * (1.0 - STRAY)), gap_off: off / (calls * STRAY) }
}

impl Function {
    /// The calls until `end_us`, in the order in which they come.
    pub(super) fn arrivals(&self, end_us: u64) -> Arrivals<'_> {
        let mut arrivals =
            Arrivals { function: self, dice: self.dice.clone(), now: 0.0, bursting: false, turn: 0.0, end_us };
        if let Source::Bursts { off, .. } = self.source {
            arrivals.turn = arrivals.dice.exponential(off);
        }
        arrivals
    }
}

/// Iterates over the calls of one function.
pub(super) struct Arrivals<'a> {
    function: &'a Function,
    dice: Dice,
    now: f64,
    bursting: bool,
    /// When the burst ends, or the next begins.
    turn: f64,
    end_us: u64,
}

impl Arrivals<'_> {
    fn step(&mut self) {
        match self.function.source {
            Source::Timer { period, phase, .. } => {
                self.now = if self.now == 0.0 { phase + 1.0 } else { self.now + period };
            }
            Source::Bursts { on, off, gap_on, gap_off } => loop {
                let gap = if self.bursting { gap_on } else { gap_off };
                let next = self.now + self.dice.exponential(gap);
                if next < self.turn {
                    self.now = next;
                    return;
                }
                self.now = self.turn;
                self.bursting = !self.bursting;
                self.turn += self.dice.exponential(if self.bursting { on } else { off });
            },
            Source::Steady { gap, phase } => loop {
                // Drawn at the highest rate of the day and thinned out.
                self.now += self.dice.exponential(gap / (1.0 + DAILY));
                let rate = 1.0 + DAILY * (TAU * self.now / DAY_US as f64 + phase).sin();
                if self.dice.unit() <= rate / (1.0 + DAILY) {
                    return;
                }
            },
        }
    }
}

impl Iterator for Arrivals<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        self.step();
        let at_us = self.now as u64;
        let duration = self.dice.log_normal(self.function.median_us, 0.5).clamp(1_000.0, 900e6);
        (at_us < self.end_us).then_some(Arrival { at_us, duration_us: duration as u64 })
    }
}

#[test]
fn a_trace_has_the_published_shape() {
    let functions = functions(1, 400);
    let share = |fits: &dyn Fn(&Function) -> bool| {
        functions.iter().filter(|function| fits(function)).count() as f64 / functions.len() as f64
    };
    let rare = share(&|function| function.rate_per_hour < 1.0);
    assert!((0.49..=0.51).contains(&rare), "{rare}");
    let timers = share(&|function| matches!(function.source, Source::Timer { .. }));
    let bursts = share(&|function| matches!(function.source, Source::Bursts { .. }));
    assert!((0.25..0.35).contains(&timers) && (0.45..0.55).contains(&bursts), "{timers} {bursts}");
    // Over the middle decades a day is long enough to see the rate that was drawn.
    let seen = |function: &Function| function.arrivals(10 * DAY_US).count() as f64 / 240.0;
    let middle: Vec<&Function> = functions
        .iter()
        .filter(|function| (3.0..60.0).contains(&function.rate_per_hour))
        .filter(|function| !matches!(function.source, Source::Timer { .. }))
        .collect();
    let ratio =
        middle.iter().map(|function| seen(function) / function.rate_per_hour).sum::<f64>() / middle.len() as f64;
    assert!((0.7..1.4).contains(&ratio), "{ratio}");
    let same: Vec<Arrival> = middle[0].arrivals(DAY_US).take(50).collect();
    assert_eq!(same, middle[0].arrivals(DAY_US).take(50).collect::<Vec<_>>());
    assert!(same.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us));
}
