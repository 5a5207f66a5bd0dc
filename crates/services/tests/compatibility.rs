//! The compatibility matrix `docs/compatibility.md`: written from the code, and checked against it.
//!
//! An operation is listed as supported if the wire has its shapes and the service answers it with anything but "not
//! implemented"; both are checked here, so that neither list can say more than the code does. After a change, run
//! `DUNLIN_UPDATE=1 cargo test -p services --test compatibility`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use aws::Service;
use base::{SystemClock, SystemRandom};
use model::ports::Invoker;
use model::{Family, FunctionRef, Invocation, InvokeError, Outcome};
use serde_json::json;
use services::apigateway::{self, ApiGatewayService, Apis};
use services::dynamodb::{self, DynamoDb};
use services::iam::{self, Iam, Keys, Roles};
use services::lambda::{self, Functions, LambdaService};
use services::logs::Logs;
use services::sts::Sts;
use store::{MemoryBlobs, MemoryStore};

mod shown;

struct Nobody;

#[async_trait]
impl Invoker for Nobody {
    async fn invoke(&self, invocation: Invocation) -> Result<Outcome, InvokeError> {
        Err(InvokeError::NotFound(invocation.function.arn()))
    }

    async fn accept(&self, invocation: Invocation) -> Result<(), InvokeError> {
        Err(InvokeError::NotFound(invocation.function.arn()))
    }

    async fn dry_run(&self, function: &FunctionRef) -> Result<(), InvokeError> {
        Err(InvokeError::NotFound(function.arn()))
    }
}

fn services() -> BTreeMap<&'static str, Arc<dyn Service>> {
    let (store, blobs) = (MemoryStore::shared(), MemoryBlobs::shared());
    let (clock, random) = (SystemClock::shared(), SystemRandom::shared());
    let functions = Functions::new(store.clone(), blobs, clock.clone(), random.clone(), lambda::Config::default());
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::dev(folder.path(), clock.clone(), random.clone()).unwrap();
    let apis: Arc<dyn Service> =
        Arc::new(ApiGatewayService::new(Apis::new(store.clone(), clock.clone(), random.clone(), "localhost")));
    let tables: Arc<dyn Service> =
        Arc::new(DynamoDb::new(store.clone(), clock.clone(), random.clone(), dynamodb::Config::default()));
    BTreeMap::from([
        ("apigateway", apis.clone()),
        ("apigatewayv2", apis),
        ("dynamodb", tables.clone()),
        ("dynamodbstreams", tables),
        ("iam", Arc::new(Iam::new(Roles::new(store.clone(), clock.clone())))),
        ("lambda", Arc::new(LambdaService::new(functions, Arc::new(Nobody), Vec::new(), Vec::new()))),
        ("logs", Logs::new(store, clock.clone(), random)),
        ("sts", Arc::new(Sts::new(Arc::new(keys), clock))),
    ])
}

#[tokio::test]
async fn every_operation_that_the_wire_decodes_is_answered() {
    let services = services();
    let mut missing = Vec::new();
    for (service, operation) in aws::catalogue().filter(|(_, operation)| operation.io.is_some()) {
        // Where the empty input already names a kind of thing that is refused, the supported kind is named.
        let input = match operation.name {
            "PutIntegration" => json!({"type": "AWS_PROXY"}),
            "v2.CreateApi" => json!({"ProtocolType": "HTTP"}),
            _ => json!({}),
        };
        let call = aws::testing::call(operation.name, input);
        if let Err(error) = services[service].call(call).await
            && error.code == "NotImplementedException"
        {
            missing.push(format!("{service} {}: {}", operation.name, error.message));
        }
    }
    assert!(missing.is_empty(), "the wire decodes what no service does:\n{}", missing.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

#[test]
fn names_are_written_as_clients_write_them() {
    let written = |name| (shown::words(name, '_'), shown::words(name, '-'));
    assert_eq!(written("CreateFunctionUrlConfig").0, "create_function_url_config");
    assert_eq!(written("GetLayerVersionByArn").1, "get-layer-version-by-arn");
    assert_eq!(written("ListSAMLProviders").0, "list_saml_providers");
}

#[test]
fn every_operation_of_lambda_is_shown_by_a_test_of_its_own() {
    let tests = shown::Tests::read(&root());
    let supported = aws::catalogue().filter(|(service, operation)| *service == "lambda" && operation.io.is_some());
    let unshown: Vec<&str> = supported
        .map(|(_, operation)| operation.name)
        .filter(|name| !tests.of("lambda", name).iter().any(|place| place.contains("::")))
        .collect();
    assert!(unshown.is_empty(), "no test calls {unshown:?}");
}

#[test]
fn the_matrix_is_fresh() {
    let path = root().join("docs/compatibility.md");
    let fresh = matrix();
    if std::env::var_os("DUNLIN_UPDATE").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == fresh, "docs/compatibility.md is not what the code says: run with DUNLIN_UPDATE=1");
}

fn matrix() -> String {
    let mut page = String::from(
        "# Compatibility\n\n<!-- @generated from the code by `DUNLIN_UPDATE=1 cargo test -p services --test compatibility` -->\n\n\
         Operations of the public service models. What is not supported answers `NotImplementedException` (status 501) in the\n\
         service's own error shape; so does a parameter that a supported operation does not honour. What is accepted and has\n\
         no effect is listed at the end.\n\n",
    );
    let mut by_service: BTreeMap<&str, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for (service, operation) in aws::catalogue() {
        let (supported, refused) = by_service.entry(service).or_default();
        let name = operation.name.trim_start_matches("v2.").to_owned();
        if operation.io.is_some() { supported.push(name) } else { refused.push(name) }
    }
    page.push_str("| service | supported | of |\n|---|---|---|\n");
    for (service, (supported, refused)) in &by_service {
        writeln!(page, "| {service} | {} | {} |", supported.len(), supported.len() + refused.len()).unwrap();
    }
    for (service, (supported, refused)) in &by_service {
        writeln!(page, "\n## {service}\n\nSupported: {}.", supported.join(", ")).unwrap();
        writeln!(page, "\nRefused: {}.", if refused.is_empty() { "nothing".to_owned() } else { refused.join(", ") })
            .unwrap();
    }
    write_tests(&mut page, &by_service);
    page.push_str("\n## Runtimes\n\n| runtime | run by | tested by |\n|---|---|---|\n");
    for (family, by, tests) in RUNTIMES {
        let all = model::runtime::ACCEPTED
            .iter()
            .filter(|name| model::Runtime::parse(name).is_some_and(|it| it.family() == *family));
        let names: Vec<String> = all.map(|name| format!("`{name}`")).collect();
        writeln!(page, "| {} | {by} | {tests} |", names.join(", ")).unwrap();
    }
    page.push_str(OTHER_RUNTIMES);
    page.push_str("\n## Accepted without effect\n\n| service | operation | parameter | why |\n|---|---|---|---|\n");
    let dynamodb = dynamodb::ACCEPTED_WITHOUT_EFFECT.iter().map(|(place, why)| {
        let (operation, parameter) = place.split_once('.').unwrap_or((place, ""));
        ("dynamodb", operation, parameter, *why)
    });
    let lambda = lambda::ACCEPTED_WITHOUT_EFFECT
        .iter()
        .map(|(operation, parameter, why)| ("lambda", *operation, *parameter, *why));
    let apis = apigateway::ACCEPTED_WITHOUT_EFFECT
        .iter()
        .map(|(operation, parameter, why)| ("apigateway", *operation, *parameter, *why));
    let iam =
        iam::ACCEPTED_WITHOUT_EFFECT.iter().map(|(operation, parameter, why)| ("iam", *operation, *parameter, *why));
    for (service, operation, parameter, why) in apis.chain(dynamodb).chain(iam).chain(lambda) {
        writeln!(page, "| {service} | {operation} | {parameter} | {why} |").unwrap();
    }
    page.push_str(DIFFERENCES);
    page
}

/// Where each operation is seen at work by a real client; what none of these calls is tested in `crates` only.
fn write_tests(page: &mut String, by_service: &BTreeMap<&str, (Vec<String>, Vec<String>)>) {
    page.push_str("\n## Tests\n\n| service | operation | called by |\n|---|---|---|\n");
    let tests = shown::Tests::read(&root());
    for (service, (supported, _)) in by_service {
        for operation in supported {
            let of: Vec<String> = tests.of(service, operation).iter().map(|place| format!("`{place}`")).collect();
            let of = if of.is_empty() { "tests in `crates`".to_owned() } else { of.join(", ") };
            writeln!(page, "| {service} | {operation} | {of} |").unwrap();
        }
    }
}

/// What runs each family of runtimes, and where it is tested.
const RUNTIMES: &[(Family, &str, &str)] = &[
    (Family::Node, "Node.js of the host, from 12.20 on", "`runtimes/nodejs/test`, `tests/sdk`"),
    (Family::Python, "CPython of the host, from 3.8 on", "`runtimes/python/test_bootstrap.py`, `tests/sdk`"),
    (Family::Java, "the host's JDK, from 11 on, and AWS's runtime client", "`tests/sdk/test_java.py`"),
    (Family::Ruby, "Ruby of the host, from 2.7 on", "`runtimes/test_guests.py`, `tests/sdk/test_ruby.py`"),
    (
        Family::Provided,
        "the package's own `bootstrap`, or `bootstrap.wasm`",
        "`tests/sdk/test_provided.py`, `tests/sdk/test_wasm.py`",
    ),
];

/// What has no runtime of its own name here.
const OTHER_RUNTIMES: &str = "\
| `provided.*` with a PHP file as its handler and no `bootstrap` | PHP of the host, from 8.0 on, in Bref's shape | `runtimes/test_guests.py`, `tests/sdk/test_php.py` |
| `provided.*` with a self-contained .NET program | the package's own `bootstrap` | `tests/sdk/test_dotnet.py`, with .NET Core 3.1; what an SDK of .NET 8 or later publishes is **untested** |
| `dotnet6`, `dotnet8`, `dotnet10` | refused, with what to do instead (see `docs/languages.md`) | `tests/sdk/test_dotnet.py` |
";

/// Differences that no table of the code holds.
const DIFFERENCES: &str = "
## Differences that clients can see

- **Policies of functions** are evaluated: a function URL with `AuthType` NONE answers 403 until `lambda:InvokeFunctionUrl` is permitted to `*`
  (the second permission that AWS asks of newer URLs is not needed), APIs call what permits `apigateway.amazonaws.com`, other accounts
  invoke what permits them. `dunlin deploy` adds what a project needs. Conditions may have all operators
  but `BinaryEquals`, and the keys that have a value here or cannot have one: time, the caller's address, account and ARN, the source's ARN and
  account, organizations. A policy with other keys, such as those of tags, or with policy variables is refused, of tables too.
- **Roles**: who may assume one is evaluated, by AssumeRole and for functions, and what could not be is refused as it is of functions; a session's
  `aws:PrincipalArn` is its role's without the path; that a role which a policy names is there is not checked; a function may have a role that was never made, of its own account
  and in `dunlin up` too, but none of another account. Policies of roles
  are stored and not evaluated: within its own account, whoever has a valid key may. `dunlin doctor` says so. Of the policies that AWS provides, some
  160 are known by their ARNs (`crates/services/src/iam/provided.rs`): they are listed and can be attached, what they say cannot be read; others are
  refused. Markers of IAM's lists are good for the list that gave them alone. Session policies, session tags and permissions boundaries are refused.
- **Streaming**: up to 200 MB, at the reader's pace: the rate of 2 MB a second after the first 6 MB is imposed on request only
  (`--stream-rate`). An answer that fails half way ends its HTTP connection without the last chunk, and `InvokeComplete` names the error.
- **Extensions, Telemetry and Logs APIs**: as on Lambda, in all functions that have processes; `docs/extensions.md` has what differs.
- **Logs in JSON**: records of the platform have neither spans nor tracing. Of what a function writes itself, JSON objects below its level are
  left out; other lines stay whatever the level.
- **Layers**: content comes as a zip in the call, not from a bucket; layers that AWS provides (`awslayer`) are refused. The policy of a
  layer version is evaluated for other accounts, but nobody belongs to an organization.
- **Environment variables** are encrypted at rest: in a data folder with a key that it makes for itself, or, as all that is stored, with the
  key that the server is given (`docs/operations.md`); in a database only with one that is given. There are no keys for single functions
  (`KMSKeyArn`).
- **Code signing**: nothing here signs code, so every package counts as unsigned: a configuration with the policy Enforce refuses every
  deployment, one with Warn lets it pass.
- **Asynchronous events** are durable, retried as their event invoke configuration says, and their records reach destinations at least
  once. A destination is a function of the same account and region; queues, topics, buses and buckets are
  refused until their services exist. A record that is too large for its destination goes without its payloads. With a reserved
  concurrency of zero an event waits if nobody is told of its failure. An event whose next try would come after its greatest age has its record
  (`EventAgeExceeded`) at once, with what the last try answered. An event that the function no longer takes, as one that is
  without a tenant, ends at once with the condition `InvalidRequest`. A node runs 128 events at once for each processor, and
  at most a thousand; a function has at most two fifths of that for its events. What Lambda's metrics tell of them, `dunlin events` tells, and `GET /_dunlin/events`.
- **Dead-letter queues** (`DeadLetterConfig`) are a setting of each version and work as soon as the services of queues and topics
  come; until then they are refused, in words that name the service. A letter is the event with `RequestID`, `ErrorCode` and
  `ErrorMessage`, at least once, beside the record of the same end. Its target is that of the version that ran last. One that is too
  large for its target is lost, as in AWS; characters that queues refuse are replaced in the message. What a role may do is not looked at.
- **Recursive loops** are stopped before the seventeenth call of one function, unless it allows them: they are seen by the trace header, which
  SDKs pass on, by that of messages of queues, and along destinations. The record of an event that was stopped has the condition
  `RecursiveLoop`; a message that was is left in its queue.
- **Event source mappings** read streams of DynamoDB tables. Kinesis and SQS sources work as soon as their services come; until then their
  creation is refused, in words that name the service. A mapping outlives its
  function, as in AWS, and takes nothing while the function is not there. Policies of sources are not evaluated: a source belongs to the
  caller's account and region. Up to 10 filters; there are no event source mapping logs (`LoggingConfig`), no keys for filters (`KMSKeyArn`)
  and no poller groups.
- **Tables** are ready as soon as they are made, and every read is consistent, along global secondary indexes too. Item collections have no
  limit of 10 GB; the bounds that `ReturnItemCollectionMetrics` tells are those of the whole table. A stream has one shard from its
  beginning to its end; more calls at once come from `ParallelizationFactor`.
- **Concurrency**: reserved concurrency and the account's limit throttle at once, but for one call that comes in place of each that has answered and not
  ended (its runtime or extensions go on): it waits. Ten times a reservation may be called in a second; for the
  account's ten times its limit counts only where an operator sets one (`--account-concurrency`), else its rate is free.
- **States of functions**: a function and its updates are `Active` and `Successful` at once, with two exceptions: while the program of a
  `bootstrap.wasm` is compiled they are `Pending` and `InProgress` (`Failed`, if it cannot be), and while the snapshot of a version with SnapStart
  is taken that version is `Pending`, and Invoke answers 409 as on AWS; what calls it otherwise (a URL, a mapping, an accepted event) runs its init.
  A program can be called and changed meanwhile: the call waits. A version whose snapshot was put away, after six hours without an environment from
  it, is `Inactive` (`Idle`); a call is served, where AWS refuses the first, and has the snapshot taken anew.
- **RuntimeVersionConfig** names the interpreter of the host that runs a function now, whatever PutRuntimeManagementConfig asks for; its
  `RuntimeVersionArn` holds a name and a version in place of AWS's digest. Where the host has none, it has an `Error` that says so.
- **Code storage**: 75 GB of an account in a region, beyond which `CodeStorageExceededException` is answered. A package counts once, however many
  functions, versions and layers have it; AWS counts each of them.
- **Managed instances**: there are no capacity providers, so their operations are refused, and so are GetFunctionScalingConfig and
  PutFunctionScalingConfig, which scale functions on them.
- **Freezing between calls** begins 100 ms after a function became idle, and only where it left something running; where the machine has no
  cgroup v2 that the server may write, what was left runs on. `--no-freeze` lets it run on everywhere.
- **Provisioned concurrency**: every node that shares a store has as many environments as are asked for, and tells of its own. The bill
  counts calls only.
- **VpcConfig**: there are no networks here, so every subnet and security group is taken, and one account has one VPC in a region. A function in a
  VPC reaches the platform's services and nothing else, as in a subnet without a NAT gateway; its tag `dunlin:egress` opens more. States of its
  attachment (`Pending`, `Inactive`) do not occur.
- **FileSystemConfigs**: an access point is a folder of the host that the operator has given its name to (`--file-system`), and nothing of EFS is
  asked. A function that has one needs no VPC; its environments start without a guest that is booted ahead, and with SnapStart each runs its init.
  File systems of S3 are refused.
- **Tenant isolation**: as in AWS without SnapStart, provisioned concurrency, function URLs and event source mappings, and also without the tag
  `dunlin:minimum-environments`. APIs pass no tenant, so they cannot call such functions.
- **Network of a function**: public addresses over TCP, and DNS over UDP and TCP, whichever server is asked. Names have IPv4 addresses (those that have
  IPv6 alone get one of the sandbox's own); NS, CNAME, SOA, PTR of public addresses, MX, TXT, SRV, NAPTR, TLSA and CAA are what the host's name
  servers say, without addresses beside them; of other types a name has nothing, and ANY and transfers are not implemented. 1,024 questions a
  second leave the host for one environment. UDP beside that and the X-Ray daemon, ICMP and IPv6-only names looked up by address are not served.
- **X-Ray**: the trace header is made and passed on. Segments that SDKs send to the daemon's address are taken and counted
  (`segments` of `GET /_dunlin/network`); nothing keeps them, and there are no sampling rules to ask for.
- **Size of `/tmp`**: what is free is told as it is. Where `/tmp` is on the disk (as root), its whole size reads as 10 GB whatever the function may use:
  one stock of file systems serves all sizes. So `shutil.disk_usage('/tmp').free` is right and `.total` is not.
- **`/tmp` after a failure**: a call that ran out of time, or whose process ended, ends its environment, and the next call finds an empty `/tmp` in another. AWS
  starts the runtime again beside what lies there. Neither promises that the next call comes to the same environment.
";
