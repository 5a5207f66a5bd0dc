//! Which extensions an environment has, where each one stands, and what it waits for. Pure.
//!
//! ```text
//! external: Started ──register──► Registered ──next──► Ready ──(event)──► Running ──next──► Ready
//! internal:            register──► Registered
//!           Started ──(not executed)──► LaunchError      Registered ──init/error──► InitError
//!           Registered, Ready, Running ──exit/error──► ExitError     any ──(process ends)──► Exited
//! ```
//!
//! Names of states and words of refusals are Lambda's, since clients see them.
//!
//! Invariants
//!   1. Nobody registers after `close`; nobody but a process that was expected is external.
//!   2. An event is handed out at most once, and only to who subscribed to its kind and asked for it.
//!   3. The first fault stays: what follows from it is not told.

use crate::faults::Fault;

/// Most extensions of an environment. Source: Lambda's quotas.
pub(crate) const EXTENSIONS_MAX: usize = 10;
/// Longest name of an extension.
const NAME_BYTES_MAX: usize = 128;

/// Where an extension stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Started,
    Registered,
    Ready,
    Running,
    InitError,
    ExitError,
    Exited,
    LaunchError,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::Registered => "Registered",
            Self::Ready => "Ready",
            Self::Running => "Running",
            Self::InitError => "InitError",
            Self::ExitError => "ExitError",
            Self::Exited => "Exited",
            Self::LaunchError => "LaunchError",
        }
    }

    fn is_over(self) -> bool {
        matches!(self, Self::InitError | Self::ExitError | Self::Exited | Self::LaunchError)
    }
}

/// Why a request is refused, with 403.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) error_type: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(error_type: &'static str, message: impl Into<String>) -> Self {
        Self { error_type, message: message.into() }
    }

    fn transition(from: State, to: State, who: &str) -> Self {
        let (from, to) = (from.name(), to.name());
        let words = "State transition is not allowed";
        let message = format!("State transition from {from} to {to} failed for extension {who}. Error: {words}");
        Self::new("Extension.InvalidExtensionState", message)
    }
}

/// What kinds of events an extension wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) invoke: bool,
    pub(crate) shutdown: bool,
}

impl Wanted {
    /// As the log names them.
    pub(crate) fn names(self) -> Vec<&'static str> {
        let all = [(self.invoke, "INVOKE"), (self.shutdown, "SHUTDOWN")];
        all.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name).collect()
    }
}

/// What an extension gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A call has begun: its JSON.
    Invoke(String),
    /// The environment ends: its JSON.
    Shutdown(String),
}

impl Event {
    /// Its JSON.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Invoke(text) | Self::Shutdown(text) => text,
        }
    }
}

/// What the log says of an extension when an init has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) events: Vec<&'static str>,
    pub(crate) error_type: Option<String>,
}

#[derive(Debug)]
struct Extension {
    name: String,
    /// Empty before it has registered.
    id: String,
    external: bool,
    state: State,
    wanted: Wanted,
    pending: Option<Event>,
    error_type: Option<String>,
}

impl Extension {
    fn new(name: &str, id: &str, external: bool, state: State, wanted: Wanted) -> Self {
        let (name, id) = (name.to_owned(), id.to_owned());
        Self { name, id, external, state, wanted, pending: None, error_type: None }
    }
}

/// The extensions of one environment.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    extensions: Vec<Extension>,
    closed: bool,
    ending: bool,
    fault: Option<Fault>,
}

impl Registry {
    /// A process of this name is about to be started.
    pub(crate) fn expect(&mut self, name: &str) -> Result<(), Fault> {
        if self.extensions.len() == EXTENSIONS_MAX {
            let fault = Fault::extension("Extension.LaunchError", &limit_reached());
            self.fail(fault.clone());
            return Err(fault);
        }
        self.extensions.push(Extension::new(name, "", true, State::Started, Wanted::default()));
        Ok(())
    }

    /// It could not be executed. `words` are the system's.
    pub(crate) fn launch_failed(&mut self, name: &str, error_type: &str, words: &str) {
        if let Some(extension) = self.external(name) {
            extension.state = State::LaunchError;
            extension.error_type = Some(error_type.to_owned());
        }
        self.fail(Fault::extension("Extension.LaunchError", words));
    }

    /// Registers; `id` becomes who it is.
    pub(crate) fn register(&mut self, name: &str, events: &[String], id: &str) -> Result<(), Refusal> {
        let wanted = self.wanted(name, events)?;
        if let Some(extension) = self.external(name) {
            if extension.state != State::Started {
                return Err(Refusal::transition(extension.state, State::Registered, name));
            }
            extension.state = State::Registered;
            (extension.wanted, extension.id) = (wanted, id.to_owned());
            return Ok(());
        }
        if self.closed {
            return Err(Refusal::new("Extension.RegistrationClosed", "Extension registration closed already"));
        }
        if self.extensions.iter().any(|extension| extension.name == name) {
            let message = "Extension with this name already registered";
            return Err(Refusal::new("Extension.InvalidExtensionState", message));
        }
        if self.extensions.len() == EXTENSIONS_MAX {
            return Err(Refusal::new("Extension.TooManyExtensions", limit_reached()));
        }
        self.extensions.push(Extension::new(name, id, false, State::Registered, wanted));
        Ok(())
    }

    fn wanted(&mut self, name: &str, events: &[String]) -> Result<Wanted, Refusal> {
        if name.is_empty() {
            return Err(Refusal::new("Extension.InvalidExtensionName", "Empty extension name"));
        }
        if name.len() > NAME_BYTES_MAX {
            let message = format!("Extension name is longer than {NAME_BYTES_MAX} bytes");
            return Err(Refusal::new("Extension.InvalidExtensionName", message));
        }
        let external = self.external(name).is_some();
        let mut wanted = Wanted::default();
        for event in events {
            match event.as_str() {
                "INVOKE" => wanted.invoke = true,
                "SHUTDOWN" if external => wanted.shutdown = true,
                "SHUTDOWN" => {
                    let message = "SHUTDOWN: event is not supported for internal extensions";
                    return Err(Refusal::new("Extension.InvalidEventType", message));
                }
                other => {
                    let message = format!("{other}: invalid event type");
                    return Err(Refusal::new("Extension.InvalidEventType", message));
                }
            }
        }
        Ok(wanted)
    }

    /// It asks for its next event: it has nothing left to do.
    pub(crate) fn next(&mut self, id: &str) -> Result<(), Refusal> {
        let extension = self.known(id)?;
        match extension.state {
            State::Registered | State::Running => {
                extension.state = State::Ready;
                Ok(())
            }
            state => Err(Refusal::transition(state, State::Ready, id)),
        }
    }

    /// The event that it waits for, if there is one by now. Nothing more comes after an error of its own.
    pub(crate) fn take(&mut self, id: &str) -> Option<Event> {
        let extension = self.known(id).ok().filter(|extension| extension.state == State::Ready)?;
        let event = extension.pending.take()?;
        extension.state = State::Running;
        Some(event)
    }

    /// A connection on which it waited is gone without an event: it may ask again.
    pub(crate) fn left_waiting(&mut self, id: &str) {
        if let Ok(extension) = self.known(id)
            && extension.state == State::Ready
        {
            extension.state = State::Registered;
        }
    }

    /// It says that it cannot initialise.
    pub(crate) fn init_error(&mut self, id: &str, error_type: &str) -> Result<(), Refusal> {
        let extension = self.known(id)?;
        match extension.state {
            State::Registered => extension.state = State::InitError,
            State::InitError => return Ok(()),
            state => return Err(Refusal::transition(state, State::InitError, id)),
        }
        self.ended("Extension.InitError", id, error_type);
        Ok(())
    }

    /// It says that it is about to exit.
    pub(crate) fn exit_error(&mut self, id: &str, error_type: &str) -> Result<(), Refusal> {
        let extension = self.known(id)?;
        match extension.state {
            State::Registered | State::Ready | State::Running => extension.state = State::ExitError,
            State::ExitError => return Ok(()),
            state => return Err(Refusal::transition(state, State::Exited, id)),
        }
        self.ended("Extension.ExitError", id, error_type);
        Ok(())
    }

    fn ended(&mut self, kind: &str, id: &str, error_type: &str) {
        let Ok(extension) = self.known(id) else { return };
        extension.error_type = Some(error_type.to_owned());
        let message = format!("{}: {error_type}", extension.name);
        self.fail(Fault::extension(kind, &message));
    }

    /// The process of an external one has ended, in these words.
    pub(crate) fn left(&mut self, name: &str, words: &str) {
        let ending = self.ending;
        let Some(extension) = self.external(name) else { return };
        if !extension.state.is_over() {
            extension.state = State::Exited;
            if !ending {
                extension.error_type = Some("Extension.Crash".to_owned());
            }
        }
        if !ending {
            self.fail(Fault::extension("Extension.Crash", words));
        }
    }

    /// A call begins.
    pub(crate) fn invoke(&mut self, event: &str) {
        for extension in self.extensions.iter_mut().filter(|it| it.wanted.invoke && !it.state.is_over()) {
            extension.pending = Some(Event::Invoke(event.to_owned()));
        }
    }

    /// The environment ends: what else happens is no fault any more.
    pub(crate) fn end(&mut self) {
        self.ending = true;
        self.closed = true;
    }

    /// Everybody that wants to know hears of the end.
    pub(crate) fn shut_down(&mut self, event: &str) {
        for extension in self.extensions.iter_mut().filter(|it| it.external && it.wanted.shutdown) {
            extension.pending = Some(Event::Shutdown(event.to_owned()));
        }
    }

    /// Nobody can register any more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether all processes that were started have registered.
    pub(crate) fn all_registered(&self) -> bool {
        self.extensions.iter().all(|extension| extension.state != State::Started)
    }

    /// Whether nobody has anything left to do.
    pub(crate) fn is_settled(&self) -> bool {
        let rests = |it: &Extension| it.state.is_over() || (it.state == State::Ready && it.pending.is_none());
        self.extensions.iter().all(rests)
    }

    /// Whether there is any extension.
    pub(crate) fn is_empty(&self) -> bool {
        self.extensions.is_empty()
    }

    /// Names of the external ones whose process may still run, and whether they want to hear of the end.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&str, bool)> {
        let runs = |it: &&Extension| it.external && !matches!(it.state, State::Exited | State::LaunchError);
        self.extensions
            .iter()
            .filter(runs)
            .map(|it| (it.name.as_str(), it.wanted.shutdown && it.state != State::Started))
    }

    /// Whether there is an external one.
    pub(crate) fn has_external(&self) -> bool {
        self.extensions.iter().any(|extension| extension.external)
    }

    /// What went wrong first.
    pub(crate) fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// The name of who has this id.
    pub(crate) fn name(&self, id: &str) -> Option<&str> {
        self.extensions.iter().find(|it| !it.id.is_empty() && it.id == id).map(|it| it.name.as_str())
    }

    /// How all stand.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        let standing = |it: &Extension| Standing {
            name: it.name.clone(),
            state: it.state.name(),
            events: it.wanted.names(),
            error_type: it.error_type.clone(),
        };
        self.extensions.iter().map(standing).collect()
    }

    fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    fn external(&mut self, name: &str) -> Option<&mut Extension> {
        self.extensions.iter_mut().find(|extension| extension.external && extension.name == name)
    }

    fn known(&mut self, id: &str) -> Result<&mut Extension, Refusal> {
        let found = self.extensions.iter_mut().find(|extension| !extension.id.is_empty() && extension.id == id);
        let unknown = || Refusal::new("Extension.UnknownExtensionIdentifier", format!("Unknown extension {id}"));
        found.ok_or_else(unknown)
    }
}

fn limit_reached() -> String {
    format!("Extension limit ({EXTENSIONS_MAX}) reached")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn one(wanted: &[&str]) -> Registry {
        let mut registry = Registry::default();
        registry.expect("a").unwrap();
        registry.register("a", &events(wanted), "1").unwrap();
        registry
    }

    #[test]
    fn the_usual_round() {
        let mut registry = Registry::default();
        registry.expect("a").unwrap();
        assert!(!registry.all_registered() && !registry.is_settled());
        registry.register("a", &events(&["INVOKE", "SHUTDOWN"]), "1").unwrap();
        registry.register("inside", &events(&["INVOKE"]), "2").unwrap();
        assert!(registry.all_registered() && !registry.is_settled());
        registry.next("1").unwrap();
        registry.next("2").unwrap();
        assert!(registry.is_settled());
        registry.close();
        registry.invoke("{}");
        assert!(!registry.is_settled(), "they have not heard of the call yet");
        for id in ["1", "2"] {
            assert_eq!(registry.take(id), Some(Event::Invoke("{}".into())));
            assert_eq!(registry.take(id), None);
        }
        registry.next("1").unwrap();
        assert!(!registry.is_settled());
        registry.next("2").unwrap();
        assert!(registry.is_settled());
        registry.end();
        registry.shut_down("end");
        assert_eq!(registry.take("2"), None, "those inside are not told");
        assert_eq!(registry.take("1"), Some(Event::Shutdown("end".into())));
        registry.left("a", "exit code 0");
        assert_eq!((registry.fault(), registry.running().count()), (None, 0));
    }

    #[test]
    fn refusals_read_as_lambdas() {
        let mut registry = one(&["INVOKE"]);
        let refused = |result: Result<(), Refusal>| {
            let refusal = result.unwrap_err();
            (refusal.error_type, refusal.message)
        };
        let name = "Extension.InvalidExtensionName";
        assert_eq!(refused(registry.register("", &[], "9")), (name, "Empty extension name".into()));
        assert_eq!(refused(registry.register(&"x".repeat(129), &[], "9")).0, name);
        let kind = "Extension.InvalidEventType";
        assert_eq!(refused(registry.register("b", &events(&["SHUTDOWN"]), "9")).0, kind);
        assert_eq!(refused(registry.register("b", &events(&["SLEEP"]), "9")).0, kind);
        let again = refused(registry.register("a", &[], "9"));
        assert_eq!(
            again.1,
            "State transition from Registered to Registered failed for extension a. Error: State transition is not allowed"
        );
        assert_eq!(refused(registry.next("7")).0, "Extension.UnknownExtensionIdentifier");
        assert_eq!(refused(registry.next("")).0, "Extension.UnknownExtensionIdentifier");
        registry.next("1").unwrap();
        assert_eq!(refused(registry.next("1")).0, "Extension.InvalidExtensionState");
        assert_eq!(refused(registry.init_error("1", "X")).0, "Extension.InvalidExtensionState");
        registry.register("b", &[], "2").unwrap();
        assert_eq!(refused(registry.register("b", &[], "3")).1, "Extension with this name already registered");
        registry.close();
        assert_eq!(refused(registry.register("c", &[], "4")).0, "Extension.RegistrationClosed");
    }

    #[test]
    fn there_are_at_most_ten() {
        let mut registry = Registry::default();
        for number in 0..EXTENSIONS_MAX {
            registry.register(&number.to_string(), &[], &format!("id{number}")).unwrap();
        }
        assert_eq!(registry.register("x", &[], "x").unwrap_err().error_type, "Extension.TooManyExtensions");
        assert_eq!(registry.expect("y").unwrap_err().error_type, "Extension.LaunchError");
    }

    #[test]
    fn the_first_fault_stays() {
        let mut registry = one(&["INVOKE"]);
        registry.init_error("1", "Extension.Mine").unwrap();
        registry.init_error("1", "Extension.Other").unwrap();
        registry.left("a", "exit status 3");
        let fault = registry.fault().unwrap();
        assert_eq!((fault.error_type.as_str(), fault.message.as_str()), ("Extension.InitError", "a: Extension.Mine"));
        let standing = &registry.standings()[0];
        assert_eq!((standing.state, standing.error_type.as_deref()), ("InitError", Some("Extension.Mine")));

        let mut registry = one(&[]);
        registry.next("1").unwrap();
        registry.left("a", "exit code 0");
        assert_eq!(registry.fault().unwrap().error_type, "Extension.Crash");
        assert!(registry.is_settled(), "nobody waits for what is gone");
    }

    #[test]
    fn who_lost_its_connection_may_ask_again() {
        let mut registry = one(&["INVOKE"]);
        registry.next("1").unwrap();
        registry.left_waiting("1");
        assert!(!registry.is_settled());
        registry.next("1").unwrap();
        registry.invoke("{}");
        assert!(registry.take("1").is_some());
        registry.left_waiting("1");
        assert_eq!(registry.standings()[0].state, "Running");
    }

    proptest! {
        /// Whatever is said in whatever order: nobody gets an event twice or unasked, and a registry that is settled has
        /// nobody that runs.
        #[test]
        fn events_are_given_once(steps in proptest::collection::vec((0u8..9, 0usize..3), 0..80)) {
            let mut registry = Registry::default();
            let names = ["a", "b", "c"];
            registry.expect("a").unwrap();
            let (mut sent, mut got) = (0u32, 0u32);
            for (step, who) in steps {
                let (name, id) = (names[who], format!("id-{}", names[who]));
                match step {
                    0 => drop(registry.register(name, &events(&["INVOKE"]), &id)),
                    1 | 2 => drop(registry.next(&id)),
                    3 => got += u32::from(registry.take(&id).is_some()),
                    4 => {
                        sent += 3;
                        registry.invoke("{}");
                    }
                    5 => registry.left_waiting(&id),
                    6 => drop(registry.exit_error(&id, "X")),
                    7 => registry.left(name, "exit status 1"),
                    _ => registry.close(),
                }
                prop_assert!(got <= sent);
                if registry.is_settled() {
                    prop_assert!(registry.standings().iter().all(|it| it.state != "Running" && it.state != "Registered"));
                    for name in names {
                        prop_assert_eq!(registry.take(&format!("id-{name}")), None);
                    }
                }
            }
        }
    }
}
