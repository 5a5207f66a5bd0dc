//! What a sandbox's first process does while its guest lives: it reaps, and follows the spawner's orders (`protocol::Order`)
//! for programs beside the guest, and for a guest that comes later.
//!
//! Such a program is a child of this process, which has given everything up: it stands behind the same walls and in the same
//! groups as the guest, and ends with the process namespace. What it is executed from is a memory file like that of a
//! program with a root of its own (`Role::Entrypoint`): its folder, its path, its variables.
//!
//! Invariants
//!   1. As in `child`, nothing here allocates, locks or panics.
//!   2. A sandbox that had a program beside its guest, or whose guest was held, outlives that guest: the spawner says when it
//!      ends. A vacant one waits; somebody moves in once, and if that fails the sandbox ends.
//!   3. A signal goes to what this process has started, and to nothing after that was reaped.
//!
//! Start reading at `Tended::until_end`.

use libc::c_int;

use super::child::{self, Launch, Plan, Role, clone_guest, keep_only, read_environment};
use super::protocol::{OccupantRequest, Order, Reply, SOCKETS_EACH, Step};
use super::sys::{self, At, Fault};

/// Most programs beside a guest at once: more than a function can have extensions.
const BESIDE_MAX: usize = 16;
/// The lowest descriptor that is kept, above all that a program gets.
const KEPT: c_int = 10;
const GUEST: u64 = crate::contract::GUEST;

/// A program beside the guest.
#[derive(Clone, Copy)]
struct Program {
    pid: c_int,
    number: u64,
}

/// How the first process's time ended.
pub(super) enum End {
    /// The guest has ended, with wait(2)'s status, and nothing keeps the sandbox.
    Guest(c_int),
    /// There is no such child, or the spawner is gone.
    Lost,
}

/// What is looked after.
pub(super) struct Tended<'a> {
    plan: &'a Plan<'a>,
    /// The guest's number here. Zero: none that could end.
    guest: c_int,
    /// What a guest that is held will be executed with.
    held: Option<child::Environment>,
    /// What the guest is.
    programs: &'a [child::Program],
    /// Whether nobody has moved in yet, where somebody is to.
    vacant: bool,
    beside: [Option<Program>; BESIDE_MAX],
    /// Whether the sandbox outlives its guest.
    stays: bool,
}

impl<'a> Tended<'a> {
    /// A guest, which is not executed yet where there is something to execute it with.
    pub(super) fn new(plan: &'a Plan<'a>, guest: c_int, held: Option<child::Environment>) -> Self {
        let vacant = matches!(plan.role, Role::Vacant { .. });
        let (stays, programs) = (held.is_some() || vacant, plan.role.programs());
        Self { plan, guest, held, programs, vacant, beside: [None; BESIDE_MAX], stays }
    }

    /// Reaps and follows orders until there is nothing more to do.
    pub(super) fn until_end(&mut self) -> End {
        // A child that ends interrupts the wait, and only the wait: none is missed between a look and the next wait.
        sys::hold_back_children();
        loop {
            if let Some(end) = self.reap() {
                return end;
            }
            match sys::wait_readable(self.plan.status) {
                Ok(true) if !self.follow() => return End::Lost,
                Ok(_) => {}
                Err(libc::EINTR) => {}
                Err(_) => return End::Lost,
            }
        }
    }

    /// Reaps all children that have ended.
    fn reap(&mut self) -> Option<End> {
        loop {
            match sys::reap_one() {
                Ok(Some((pid, status))) if pid == self.guest => {
                    self.guest = 0;
                    if !self.stays {
                        return Some(End::Guest(status));
                    }
                    self.tell(GUEST, status);
                }
                Ok(Some((pid, status))) => self.forget(pid, status),
                Ok(None) => return None,
                Err(libc::EINTR) => {}
                // No child at all.
                Err(_) if self.stays => return None,
                Err(_) => return Some(End::Lost),
            }
        }
    }

    fn forget(&mut self, pid: c_int, status: c_int) {
        for place in &mut self.beside {
            if let Some(program) = place.take_if(|program| program.pid == pid) {
                return self.tell(program.number, status);
            }
        }
    }

    fn tell(&self, program: u64, status: c_int) {
        let left = Reply::Left { id: self.plan.id, program, status, out_of_memory: false };
        // The spawner that does not hear this is gone.
        let _ = sys::send(self.plan.status, &left.encode());
    }

    /// Follows one order; false when no more will come.
    fn follow(&mut self) -> bool {
        let mut packet = [0; super::protocol::ORDER_BYTES];
        let mut fds = [-1; 2];
        let received = sys::receive_with_fds(self.plan.status, &mut packet, &mut fds);
        let Ok(length) = received else { return received == Err(libc::EINTR) };
        if length == 0 {
            return false;
        }
        match packet.get(..length).and_then(Order::decode) {
            Some(Order::Launch { token }) => self.launched(token, fds),
            Some(Order::Begin { token }) => {
                let done = self.begin();
                self.answer(token, done);
            }
            Some(Order::Occupy { token, occupant }) => {
                let done = self.occupy(occupant, fds[0]);
                self.answer(token, done);
            }
            Some(Order::Signal { program, signal }) => self.signal(program, signal),
            Some(Order::Sockets { token }) => self.sockets(token),
            Some(Order::Entered) | None => {}
        }
        for fd in fds {
            if fd >= 0 {
                sys::close(fd);
            }
        }
        true
    }

    fn answer(&self, token: u64, done: Result<(), Fault>) {
        let Fault { step, errno } = done.err().unwrap_or(Fault { step: Step::Request, errno: 0 });
        let _ = sys::send(self.plan.status, &Reply::Launched { token, step: step as u32, errno }.encode());
    }

    /// The guest that is held begins.
    fn begin(&mut self) -> Result<(), Fault> {
        let environment = self.held.take().ok_or(Fault { step: Step::Request, errno: libc::EALREADY })?;
        let mut launch = Launch::of_programs(self.plan, self.programs, &environment);
        let begun = clone_guest(&mut launch, self.plan.follows());
        environment.forget();
        keep_only([self.plan.status]);
        self.guest = begun?;
        Ok(())
    }

    /// Somebody moves in, and begins unless they are held.
    fn occupy(&mut self, occupant: OccupantRequest, environment: c_int) -> Result<(), Fault> {
        let taken = Fault { step: Step::Request, errno: libc::EALREADY };
        let Role::Vacant { bootstrap, command } = self.plan.role else { return Err(taken) };
        if !std::mem::replace(&mut self.vacant, false) {
            return Err(taken);
        }
        self.stays = false;
        let environment = read_environment(environment, 0).at(Step::Environment)?;
        self.programs = if occupant.command { command } else { bootstrap };
        self.held = Some(environment);
        self.stays = occupant.held;
        if occupant.held { Ok(()) } else { self.begin() }
    }

    fn launched(&mut self, token: u64, fds: [c_int; 2]) {
        let done = self.launch(token, fds);
        self.answer(token, done);
    }

    fn launch(&mut self, number: u64, [environment, output]: [c_int; 2]) -> Result<(), Fault> {
        let full = Fault { step: Step::Fork, errno: libc::EAGAIN };
        if self.vacant {
            // Nobody is there for it to be beside.
            return Err(Fault { step: Step::Request, errno: libc::ESRCH });
        }
        let place = self.beside.iter().position(Option::is_none).ok_or(full)?;
        let environment = read_environment(environment, 2).at(Step::Environment)?;
        // What a program gets takes the places of what is below.
        let launched = sys::duplicate_above(output, KEPT).at(Step::Fork).and_then(|output| {
            let launched = clone_guest(&mut Launch::of_program(self.plan, &environment, output), false);
            sys::close(output);
            launched
        });
        environment.forget();
        let pid = launched?;
        if let Some(place) = self.beside.get_mut(place) {
            *place = Some(Program { pid, number });
        }
        self.stays = true;
        Ok(())
    }

    /// A guest hears it with all that is in its process group.
    fn signal(&self, program: u64, signal: c_int) {
        if program == GUEST {
            if self.guest > 0 && !sys::signal(-self.guest, signal) {
                // A fork of a zygote leads no group.
                sys::signal(self.guest, signal);
            }
            return;
        }
        let named = self.beside.iter().flatten().find(|named| named.number == program);
        if let Some(named) = named
            && !sys::signal(-named.pid, signal)
        {
            sys::signal(named.pid, signal);
        }
    }

    fn sockets(&self, token: u64) {
        let mut made = [-1; SOCKETS_EACH];
        let mut count = 0;
        for place in &mut made {
            match sys::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0) {
                Ok(fd) => *place = fd,
                Err(_) => break,
            }
            count += 1;
        }
        let made = made.get(..count).unwrap_or(&[]);
        // None at all tells that there are too many.
        let _ = sys::send_with_fds(self.plan.status, &Reply::Sockets { token }.encode(), made);
        for fd in made {
            sys::close(*fd);
        }
    }
}
