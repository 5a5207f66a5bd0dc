//! When another environment is worth starting. Pure: a load in, a number of starts out.
//!
//! A waiting request takes whichever comes first, a freed environment or a new one (late binding); so the only
//! question is whether a new one is predicted to be sooner, and whether it would help at all.
//!
//! Invariants
//!   1. Where nothing runs and nothing starts, a waiting request starts an environment, whatever else holds.
//!   2. Never more starts than requests that wait for one.
//!   3. Where it is known how long calls take, an environment that is being started is left as many of them as it can
//!      serve in the time of another start: quick calls share a few, long ones get one each. Where calls never stop
//!      waiting, one more is started after the other.
//!   4. Where the processors are busy with calls, processor-bound functions get no environment beyond them: it would
//!      only share what the others have.
//!   5. What calls wait for busy processors is no part of their length: it would ask for environments that make it longer.
//!   6. A floor is filled whatever else holds, and never overfilled: what it says is the number, not a load.

/// What is known about one function version at this moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    /// Requests that wait.
    pub(crate) waiting: usize,
    /// Environments that are being started.
    pub(crate) starting: usize,
    /// Environments that serve a call.
    pub(crate) busy: usize,
    /// Average length of a call, if one was seen.
    pub(crate) run_us: Option<u64>,
    /// Average time to start an environment, if one was seen.
    pub(crate) start_us: Option<u64>,
    /// Average use of processors during a call, in thousandths of one.
    pub(crate) cpu_milli: u64,
    /// How long the request that asks has waited already.
    pub(crate) waited_us: u64,
    /// How long there has been one that waits without a pause, and without a start.
    pub(crate) backlog_us: u64,
    /// Processors of the host, in thousandths.
    pub(crate) host_milli: u64,
    /// Predicted use by all running calls, in thousandths.
    pub(crate) host_busy_milli: u64,
    /// Whether the processors of the host were busy of late, with whatever it was.
    pub(crate) host_is_busy: bool,
    /// How long no call has ended although one waits and they usually end much sooner; zero where they end as they did.
    pub(crate) stuck_us: u64,
}

/// A function whose calls take no longer, and how long they wait beside idle environments while none comes back.
const VERY_QUICK_US: u64 = 1_000;
pub(crate) const CROWD_WAIT_US: u64 = 5_000;
/// Where no start was seen yet.
const START_US_GUESS: u64 = 10_000;
/// Calls that wait all the time for as long as so many starts take, or for so long at all, are no passing crowd.
const LASTING_STARTS: u64 = 4;
const LASTING_US_MAX: u64 = 100_000;
/// How long a call waits for processors although its turn has come: a few slices of the kernel's scheduler.
const SLICES_US: u64 = 8_000;
/// How many times the usual length one call can tell of.
const LEAP: u64 = 16;
/// A function that uses less than a quarter of a processor while it runs mostly waits for others.
const CPU_BOUND_MILLI: u64 = 250;

/// How many environments to start now.
pub(crate) fn starts(load: &Load) -> usize {
    let uncovered = load.waiting.saturating_sub(load.starting);
    if uncovered == 0 {
        return 0;
    }
    if load.busy + load.starting == 0 {
        return 1;
    }
    if saturated(load) && !worth_sharing(load) && !has_changed(load) {
        return 0;
    }
    let Some(run_us) = load.run_us else { return uncovered };
    let start_us = start_us(load);
    if load.waited_us > start_us {
        // The prediction was wrong: a new environment would have been here by now.
        return 1;
    }
    // The first call of a new environment, and those that it serves until another could be there.
    let each = usize::try_from(start_us / run_us.max(1)).unwrap_or(usize::MAX).saturating_add(1);
    let uncovered = load.waiting.saturating_sub(load.starting.saturating_mul(each));
    if load.busy == 0 {
        return uncovered.div_ceil(each);
    }
    // Every call that ends frees a place; the wait of the n-th in line is n such steps.
    let step_us = run_us.max(1) / load.busy as u64;
    let soon_free = usize::try_from(start_us / step_us.max(1)).unwrap_or(usize::MAX);
    let sooner = uncovered.saturating_sub(soon_free);
    // No call gains that waits now, but so many have waited that those to come will.
    if is_lasting(load) { sooner.max(1) } else { sooner }
}

/// Whether calls have waited without a pause for so long that one more environment is worth a try.
fn is_lasting(load: &Load) -> bool {
    load.starting == 0 && load.backlog_us > start_us(load).saturating_mul(LASTING_STARTS).min(LASTING_US_MAX)
}

/// How many environments to start so that there are as many as there are to be always; `kept` of them there are.
pub(crate) fn below_floor(floor: usize, kept: usize, starting: usize) -> usize {
    floor.saturating_sub(kept.saturating_add(starting))
}

/// How many of the idle ones among `kept` have no place in the floor any more. Busy ones end when they become idle.
pub(crate) fn beyond_floor(floor: usize, kept: usize, idle: usize) -> usize {
    kept.saturating_sub(floor).min(idle)
}

/// When a waiting request should ask again if nothing has happened.
pub(crate) fn ask_again_us(load: &Load) -> u64 {
    if crowded(load) {
        // Those before it are served first.
        let turn_us = (load.waiting as u64).saturating_mul(load.run_us.unwrap_or(0));
        return start_us(load).clamp(1_000, CROWD_WAIT_US).saturating_add(turn_us).min(1_000_000);
    }
    start_us(load).clamp(1_000, 1_000_000)
}

fn start_us(load: &Load) -> u64 {
    load.start_us.unwrap_or(START_US_GUESS)
}

/// Whether the processors are busy and another environment would only share what the others have.
pub(crate) fn saturated(load: &Load) -> bool {
    let busy = load.host_is_busy || load.host_busy_milli.saturating_mul(10) >= load.host_milli.saturating_mul(9);
    busy && load.cpu_milli >= CPU_BOUND_MILLI
}

/// Whether calls that were very quick take so long that what was known of them does not hold any more.
fn has_changed(load: &Load) -> bool {
    is_very_quick(load) && load.stuck_us > LASTING_US_MAX
}

fn is_very_quick(load: &Load) -> bool {
    load.run_us.is_some_and(|run_us| run_us <= VERY_QUICK_US)
}

/// What runs beside a call on the same processors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rivals {
    /// Running calls of the same function, this one counted in.
    pub(crate) own: usize,
    /// Predicted use by calls of others, in thousandths of a processor.
    pub(crate) others_milli: u64,
    /// Processors of the host, in thousandths.
    pub(crate) host_milli: u64,
}

/// How long a call would have had its guest with a processor of its own, where it had it for `run_us` beside others on busy
/// processors and used `cpu_us` of their time.
///
/// For all its time on a processor each rival may have had as much of one; what is longer than that, and than the
/// scheduler's slices, it has waited for something else. Calls of one function that are not longer than their turns keep
/// the processors busy by themselves: more environments could not serve more of them.
pub(crate) fn undisturbed_us(run_us: u64, cpu_us: u64, rivals: &Rivals) -> u64 {
    let runnable_milli = (rivals.own as u64).saturating_mul(1_000).saturating_add(rivals.others_milli);
    let turns_milli = runnable_milli.saturating_mul(1_000) / rivals.host_milli.max(1);
    let queued_us = cpu_us.saturating_mul(turns_milli.saturating_sub(1_000)) / 1_000;
    let waited_us = run_us.saturating_sub(cpu_us);
    run_us - waited_us.min(queued_us.saturating_add(SLICES_US))
}

/// How many environments of a processor-bound function may share that many processors.
pub(crate) fn shared_by(cores: usize) -> usize {
    cores * 2
}

/// Whether a call gains from waiting for an environment that runs although another is idle: the processors are busy, and
/// one that runs is free so soon that a wrong prediction costs little.
pub(crate) fn crowded(load: &Load) -> bool {
    // What its own environments will use counts before they have begun.
    let own_milli = load.cpu_milli.saturating_mul(load.busy as u64);
    let load = &Load { host_busy_milli: load.host_busy_milli.max(own_milli), ..*load };
    is_very_quick(load) && saturated(load) && !has_changed(load)
}

/// A short call behind long ones may share a processor with them, up to twice as many environments as processors. So may
/// one of a lasting crowd: between two calls an environment waits for the platform, which then has work for another.
fn worth_sharing(load: &Load) -> bool {
    let own = (load.busy + load.starting) as u64;
    let patience_us = start_us(load).saturating_add(load.run_us.unwrap_or(0).saturating_mul(2));
    (load.waited_us > patience_us || is_lasting(load)) && own * 1_000 < load.host_milli * 2
}

/// What of such a length is believed at once, beside those that were usual: a single call may have met more than its share.
pub(crate) fn believed_us(undisturbed_us: u64, usual_us: Option<u64>) -> u64 {
    usual_us.map_or(undisturbed_us, |usual_us| undisturbed_us.min(usual_us.saturating_mul(LEAP).max(VERY_QUICK_US)))
}

/// An average that follows: each new value counts one eighth.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Average {
    value: Option<u64>,
}

impl Average {
    /// One that begins with what was known before, if anything was.
    pub(crate) fn of(value: Option<u64>) -> Self {
        Self { value }
    }

    /// Counts a value in.
    pub(crate) fn add(&mut self, value: u64) {
        self.value = Some(match self.value {
            Some(old) => (old.saturating_mul(7)).saturating_add(value) / 8,
            None => value,
        });
    }

    /// The average, if anything was counted.
    pub(crate) fn get(self) -> Option<u64> {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: Load = Load {
        waiting: 0,
        starting: 0,
        busy: 0,
        run_us: None,
        start_us: None,
        cpu_milli: 0,
        waited_us: 0,
        backlog_us: 0,
        host_milli: 2_000,
        host_busy_milli: 0,
        host_is_busy: false,
        stuck_us: 0,
    };

    #[test]
    fn a_first_burst_starts_one_for_each() {
        assert_eq!(starts(&Load { waiting: 1, ..HOST }), 1);
        assert_eq!(starts(&Load { waiting: 20, starting: 19, ..HOST }), 1);
        assert_eq!(starts(&Load { waiting: 19, starting: 19, ..HOST }), 0);
    }

    #[test]
    fn a_burst_of_known_calls_shares_where_that_is_sooner_than_starts() {
        let mut load = Load { run_us: Some(5_000), start_us: Some(20_000), ..HOST };
        for calls in 1..=20 {
            load.waiting = calls;
            load.starting += starts(&load);
        }
        assert_eq!(load.starting, 4, "each serves five in the time of a start");
        let mut load = Load { run_us: Some(300_000), start_us: Some(3_000), ..HOST };
        for calls in 1..=20 {
            load.waiting = calls;
            load.starting += starts(&load);
        }
        assert_eq!(load.starting, 20);
        let late = Load { waiting: 3, starting: 1, run_us: Some(5_000), start_us: Some(20_000), ..HOST };
        assert_eq!(starts(&late), 0);
        assert_eq!(starts(&Load { waited_us: 25_000, ..late }), 1, "the start takes longer than others did");
    }

    #[test]
    fn short_calls_share_what_is_there() {
        let load = Load { waiting: 62, busy: 2, run_us: Some(200), start_us: Some(40_000), ..HOST };
        assert_eq!(starts(&load), 0);
    }

    #[test]
    fn only_very_quick_calls_wait_beside_idle_environments() {
        let crowd = Load { busy: 4, run_us: Some(50), start_us: Some(900_000), cpu_milli: 900, ..HOST };
        let crowd = Load { host_busy_milli: 3_600, ..crowd };
        assert!(crowded(&crowd));
        assert_eq!(ask_again_us(&crowd), 5_000, "and not as long as a start takes");
        assert!(!crowded(&Load { run_us: Some(1_001), ..crowd }));
        assert!(!crowded(&Load { cpu_milli: 200, ..crowd }));
        assert!(crowded(&Load { host_busy_milli: 0, ..crowd }), "four that are about to run are enough");
        let few = Load { host_busy_milli: 0, cpu_milli: 300, ..crowd };
        assert!(!crowded(&few));
        assert!(crowded(&Load { host_is_busy: true, ..few }), "with whatever it is");
        assert_eq!(ask_again_us(&Load { waiting: 60, ..crowd }), 8_000, "those before it are served first");
    }

    #[test]
    fn calls_that_are_stuck_are_not_what_was_known_of_them() {
        let crowd = Load { waiting: 60, busy: 4, run_us: Some(60), start_us: Some(40_000), cpu_milli: 900, ..HOST };
        let crowd = Load { host_is_busy: true, waited_us: 75_000, stuck_us: 75_000, ..crowd };
        assert_eq!((starts(&crowd), crowded(&crowd)), (0, true));
        let changed = Load { waited_us: 155_000, stuck_us: 155_000, ..crowd };
        assert_eq!((starts(&changed), crowded(&changed)), (1, false));
        assert_eq!(starts(&Load { run_us: Some(400_000), ..changed }), 0, "long calls may be longer");
    }

    #[test]
    fn what_a_call_waits_for_processors_is_not_its_length() {
        let crowd = Rivals { own: 20, others_milli: 0, host_milli: 2_000 };
        assert_eq!(undisturbed_us(60, 60, &crowd), 60);
        assert_eq!(undisturbed_us(7_000, 60, &crowd), 60, "slices of others");
        assert_eq!(undisturbed_us(2_000_000, 400_000, &Rivals { own: 10, ..crowd }), 400_000, "five take turns");
        let beside = Rivals { own: 2, others_milli: 2_000, host_milli: 2_000 };
        assert_eq!(undisturbed_us(800_000, 400_000, &beside), 400_000, "and others do");
        let sleeper = Rivals { own: 64, others_milli: 2_000, host_milli: 2_000 };
        assert!(undisturbed_us(300_000, 300, &sleeper) > 280_000, "what it waits for others is");
        assert!(undisturbed_us(50_000, 300, &sleeper) > 30_000);
    }

    #[test]
    fn a_lasting_backlog_gets_one_more_at_a_time_while_processors_are_free() {
        let crowd = Load { waiting: 60, busy: 1, run_us: Some(50), start_us: Some(6_000), cpu_milli: 900, ..HOST };
        let crowd = Load { host_busy_milli: 900, ..crowd };
        assert_eq!(starts(&Load { backlog_us: 20_000, ..crowd }), 0);
        assert_eq!(starts(&Load { backlog_us: 25_000, ..crowd }), 1);
        assert_eq!(starts(&Load { backlog_us: 25_000, starting: 1, ..crowd }), 0);
        let three = Load { backlog_us: 25_000, busy: 3, host_busy_milli: 2_700, ..crowd };
        assert_eq!((starts(&three), starts(&Load { busy: 4, ..three })), (1, 0), "twice the processors is the most");
        assert_eq!(starts(&Load { backlog_us: 101_000, start_us: Some(1_000_000), ..crowd }), 1);
    }

    #[test]
    fn long_waits_get_new_environments() {
        let load = Load { waiting: 3, busy: 2, run_us: Some(300_000), start_us: Some(40_000), ..HOST };
        assert_eq!(starts(&load), 3);
        let load = Load { waiting: 3, busy: 2, run_us: Some(50_000), start_us: Some(40_000), ..HOST };
        assert_eq!(starts(&load), 2, "one of the two is predicted to be free first");
    }

    #[test]
    fn a_wrong_prediction_is_corrected() {
        let load = Load { waiting: 1, busy: 1, run_us: Some(1_000), start_us: Some(40_000), ..HOST };
        assert_eq!(starts(&load), 0);
        assert_eq!(starts(&Load { waited_us: 50_000, ..load }), 1);
    }

    #[test]
    fn busy_processors_get_no_more_processor_bound_environments() {
        let bound = Load {
            waiting: 30,
            busy: 2,
            run_us: Some(400_000),
            start_us: Some(40_000),
            cpu_milli: 950,
            host_busy_milli: 1_900,
            ..HOST
        };
        assert_eq!(starts(&bound), 0);
        assert_eq!(starts(&Load { waited_us: 10_000_000, busy: 4, ..bound }), 0, "twice the processors is the most");
        assert_eq!(starts(&Load { waited_us: 10_000_000, ..bound }), 1, "long waits may share");
        assert_eq!(starts(&Load { busy: 1, host_busy_milli: 950, ..bound }), 30);
        let sleepy = Load { cpu_milli: 10, ..bound };
        assert!(starts(&sleepy) > 0, "functions that wait for others are not held back");
    }

    #[test]
    fn one_call_tells_of_no_change_and_some_do() {
        let after = |calls: usize| {
            let mut average = Average::of(Some(60));
            (0..calls).for_each(|_| average.add(believed_us(300_000, average.get())));
            average.get().unwrap()
        };
        assert!(after(1) < 200 && after(2) < VERY_QUICK_US);
        assert!(after(4) > VERY_QUICK_US && after(8) > 40_000, "{}", after(8));
        assert_eq!(believed_us(300_000, None), 300_000);
    }

    proptest! {
        /// Steps: the floor is set, an environment of it becomes busy, idle, dies, or starts end.
        #[test]
        fn a_floor_is_reached_and_left_exactly(steps in proptest::collection::vec((0u8..5, 0usize..12), 0..120)) {
            let (mut floor, mut idle, mut busy, mut starting) = (0, 0usize, 0usize, 0);
            for (step, number) in steps {
                match step {
                    0 => floor = number,
                    1 if idle > 0 => (idle, busy) = (idle - 1, busy + 1),
                    2 if busy > 0 => (idle, busy) = (idle + 1, busy - 1),
                    3 => idle = idle.saturating_sub(1),
                    4 => (idle, starting) = (idle + starting.min(number), starting - starting.min(number)),
                    _ => {}
                }
                idle -= beyond_floor(floor, idle + busy, idle);
                starting += below_floor(floor, idle + busy, starting);
                prop_assert!(idle + busy + starting >= floor);
                prop_assert!(idle + busy <= floor.max(busy), "only running calls stay beyond it");
            }
            idle += starting;
            idle -= beyond_floor(floor, idle + busy, idle);
            prop_assert_eq!(idle + busy, floor.max(busy));
        }

        /// Where more calls of a function are let in than the processors serve at once, as long as they last.
        #[test]
        fn calls_that_only_take_turns_count_as_bound_by_processors(
            cpu_us in 1u64..1_000_000,
            own in 1usize..500,
            cores in 1u64..64,
            others_milli in 0u64..64_000,
            slices_us in 0..SLICES_US,
        ) {
            let rivals = Rivals { own, others_milli, host_milli: cores * 1_000 };
            let runnable_milli = own as u64 * 1_000 + others_milli;
            let run_us = (cpu_us * runnable_milli / (cores * 1_000)).max(cpu_us) + slices_us;
            let undisturbed_us = undisturbed_us(run_us, cpu_us, &rivals);
            // What is lost in rounding.
            prop_assert!(undisturbed_us <= cpu_us + cpu_us / 500 + 1, "{undisturbed_us}");
        }

        #[test]
        fn a_correction_leaves_what_was_used_and_adds_nothing(
            run_us: u64,
            cpu_us: u64,
            own: usize,
            others_milli: u64,
            host_milli: u64,
        ) {
            let rivals = Rivals { own, others_milli, host_milli };
            let undisturbed_us = undisturbed_us(run_us, cpu_us, &rivals);
            prop_assert!((run_us.min(cpu_us)..=run_us).contains(&undisturbed_us));
            let longer_us = super::undisturbed_us(run_us.saturating_add(1_000), cpu_us, &rivals);
            prop_assert!(longer_us >= undisturbed_us, "a longer call never counts as a shorter one");
        }

        #[test]
        fn never_more_than_are_waiting_and_never_stuck(
            waiting in 0usize..500,
            starting in 0usize..500,
            busy in 0usize..500,
            run_us: Option<u64>,
            start_us: Option<u64>,
            cpu_milli in 0u64..64_000,
            waited_us: u64,
            backlog_us: u64,
            host_busy_milli in 0u64..1_000_000,
            host_is_busy: bool,
            stuck_us: u64,
        ) {
            let times = Load { run_us, start_us, waited_us, backlog_us, stuck_us, ..HOST };
            let load = Load { waiting, starting, busy, cpu_milli, host_busy_milli, host_is_busy, ..times };
            let starts = starts(&load);
            prop_assert!(starts <= waiting.saturating_sub(starting));
            if waiting > 0 && starting == 0 && busy == 0 {
                prop_assert!(starts >= 1);
            }
            prop_assert!((1_000..=1_000_000).contains(&ask_again_us(&load)));
        }
    }
}
