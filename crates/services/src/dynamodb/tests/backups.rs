//! Backups and points in time: one state of a table each, whatever is written meanwhile, as tables again.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

type Model = BTreeMap<String, String>;

impl Bench {
    /// Does the background work until there is none.
    async fn settle(&self) {
        while self.service.sweep().await.unwrap() > 0 {}
    }

    async fn backup(&self, name: &str) -> String {
        let input = json!({ "TableName": "items", "BackupName": name });
        let details = self.ok("CreateBackup", input).await["BackupDetails"].clone();
        assert_eq!((&details["BackupStatus"], &details["BackupType"]), (&json!("CREATING"), &json!("USER")));
        details["BackupArn"].as_str().unwrap().into()
    }

    async fn describe_backup(&self, arn: &str) -> Json {
        self.ok("DescribeBackup", json!({ "BackupArn": arn })).await["BackupDescription"].clone()
    }

    async fn table(&self, name: &str) -> Json {
        self.ok("DescribeTable", json!({ "TableName": name })).await["Table"].clone()
    }

    async fn model_of(&self, table: &str) -> Model {
        let scan = self.ok("Scan", json!({ "TableName": table })).await;
        let pair = |item: &Json| (item["id"]["S"].as_str().unwrap().into(), item["v"]["S"].as_str().unwrap().into());
        scan["Items"].as_array().unwrap().iter().map(pair).collect()
    }

    async fn write(&self, id: &str, value: Option<&str>) {
        match value {
            Some(value) => self.put("items", json!({ "id": { "S": id }, "v": { "S": value } })).await,
            None => {
                self.ok("DeleteItem", json!({ "TableName": "items", "Key": { "id": { "S": id } } })).await;
            }
        }
    }

    async fn recovery(&self, enabled: bool) -> Json {
        let specification = json!({ "PointInTimeRecoveryEnabled": enabled });
        let input = json!({ "TableName": "items", "PointInTimeRecoverySpecification": specification });
        self.ok("UpdateContinuousBackups", input).await["ContinuousBackupsDescription"].clone()
    }

    /// How many keys there are of a kind.
    async fn keys_of(&self, tag: u8) -> usize {
        self.stored().await.iter().filter(|entry| entry.key[1] == tag).count()
    }
}

#[tokio::test]
async fn a_backup_is_made_listed_restored_and_deleted() {
    let bench = Bench::with_items().await;
    for id in ["a", "b", "c"] {
        bench.write(id, Some("1")).await;
    }
    let arn = bench.backup("nightly").await;
    // What is written from now on is not in it.
    bench.write("a", Some("2")).await;
    bench.write("b", None).await;
    bench.write("d", Some("2")).await;
    let deleting = json!({ "TableName": "items" });
    let busy = "Attempt to change a resource which is still in use: Table is being backed up: items";
    bench.refused("DeleteTable", deleting.clone(), "ResourceInUseException", busy).await;
    let creating = json!({ "BackupArn": arn });
    assert_eq!(bench.call("DeleteBackup", creating.clone()).await.unwrap_err().code, "BackupInUseException");
    bench.settle().await;
    let described = bench.describe_backup(&arn).await;
    assert_eq!(described["BackupDetails"]["BackupStatus"], "AVAILABLE");
    assert_eq!(described["SourceTableDetails"]["ItemCount"], 3);
    assert_eq!(described["BackupDetails"]["BackupSizeBytes"], 3 * 5);
    assert_eq!(described["SourceTableDetails"]["BillingMode"], "PAY_PER_REQUEST");
    assert_eq!((bench.keys_of(b'v').await, bench.keys_of(b'o').await), (0, 0), "nobody needs the history any more");
    // It outlives its table.
    bench.ok("DeleteTable", deleting).await;
    bench.settle().await;
    let listed = bench.ok("ListBackups", json!({ "TableName": "items" })).await;
    assert_eq!(listed["BackupSummaries"][0]["BackupArn"], json!(arn));
    assert_eq!(listed["BackupSummaries"][0]["BackupName"], "nightly");
    let restore = json!({ "BackupArn": arn, "TargetTableName": "again" });
    let table = bench.ok("RestoreTableFromBackup", restore.clone()).await["TableDescription"].clone();
    assert_eq!(
        (&table["TableStatus"], &table["RestoreSummary"]["RestoreInProgress"]),
        (&json!("CREATING"), &json!(true))
    );
    let missing = "Requested resource not found";
    bench.refused("Scan", json!({ "TableName": "again" }), "ResourceNotFoundException", missing).await;
    let busy = "Attempt to change a resource which is still in use: Table is being created: again";
    bench.refused("DeleteTable", json!({ "TableName": "again" }), "ResourceInUseException", busy).await;
    assert_eq!(bench.call("DeleteBackup", creating.clone()).await.unwrap_err().code, "BackupInUseException");
    let exists = "Table already exists: again";
    bench.refused("RestoreTableFromBackup", restore, "TableAlreadyExistsException", exists).await;
    bench.settle().await;
    let table = bench.table("again").await;
    assert_eq!((&table["TableStatus"], &table["ItemCount"]), (&json!("ACTIVE"), &json!(3)));
    assert_eq!(table["RestoreSummary"]["SourceBackupArn"], json!(arn));
    let one = |id: &str| (id.to_owned(), "1".to_owned());
    assert_eq!(bench.model_of("again").await, Model::from([one("a"), one("b"), one("c")]));
    let deleted = bench.ok("DeleteBackup", creating.clone()).await["BackupDescription"].clone();
    assert_eq!(deleted["BackupDetails"]["BackupStatus"], "DELETED");
    let gone = format!("Backup not found: {arn}");
    bench.refused("DescribeBackup", creating, "BackupNotFoundException", &gone).await;
    bench.ok("DeleteTable", json!({ "TableName": "again" })).await;
    bench.settle().await;
    let left = bench.stored().await;
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_restored_table_has_the_indexes_that_are_asked_for() {
    let bench = Bench::new();
    let keys = [("id", "S"), ("at", "N")];
    let mut input = create_input("items", &keys);
    let index = |name: &str, key: &str, role: [&str; 2]| {
        json!({
            "IndexName": name, "Projection": { "ProjectionType": "KEYS_ONLY" },
            "KeySchema": role.iter().zip([key, "kind"]).filter(|(role, _)| !role.is_empty())
                .map(|(role, key)| json!({ "AttributeName": key, "KeyType": role })).collect::<Vec<_>>(),
        })
    };
    input["AttributeDefinitions"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "AttributeName": "kind", "AttributeType": "S" }));
    input["GlobalSecondaryIndexes"] = json!([index("global", "kind", ["HASH", ""])]);
    input["LocalSecondaryIndexes"] = json!([index("local", "id", ["HASH", "RANGE"])]);
    bench.ok("CreateTable", input).await;
    for at in 0..5 {
        let item = json!({ "id": { "S": "a" }, "at": { "N": at.to_string() }, "kind": { "S": "k" } });
        bench.put("items", item).await;
    }
    let arn = bench.backup("with-indexes").await;
    bench.settle().await;
    let features = bench.describe_backup(&arn).await["SourceTableFeatureDetails"].clone();
    assert_eq!(features["GlobalSecondaryIndexes"][0]["IndexName"], "global");
    assert_eq!(features["LocalSecondaryIndexes"][0]["IndexName"], "local");
    bench.ok("RestoreTableFromBackup", json!({ "BackupArn": arn, "TargetTableName": "same" })).await;
    let less = json!({
        "BackupArn": arn, "TargetTableName": "less", "LocalSecondaryIndexOverride": [],
        "BillingModeOverride": "PROVISIONED",
        "ProvisionedThroughputOverride": { "ReadCapacityUnits": 5, "WriteCapacityUnits": 6 },
        "GlobalSecondaryIndexOverride": [],
    });
    bench.ok("RestoreTableFromBackup", less.clone()).await;
    bench.settle().await;
    let table = bench.table("same").await;
    assert_eq!(table["GlobalSecondaryIndexes"][0]["ItemCount"], 5);
    assert_eq!(table["LocalSecondaryIndexes"][0]["ItemCount"], 5);
    let scan = bench.ok("Scan", json!({ "TableName": "same", "IndexName": "global" })).await;
    assert_eq!(scan["Count"], 5);
    let table = bench.table("less").await;
    assert_eq!(table["ProvisionedThroughput"]["WriteCapacityUnits"], 6);
    assert_eq!((&table["GlobalSecondaryIndexes"], &table["LocalSecondaryIndexes"]), (&Json::Null, &Json::Null));
    for (member, value) in [
        ("GlobalSecondaryIndexOverride", json!([index("other", "kind", ["HASH", ""])])),
        ("GlobalSecondaryIndexOverride", json!([index("global", "at", ["HASH", ""])])),
        ("LocalSecondaryIndexOverride", json!([index("global", "kind", ["HASH", ""])])),
    ] {
        let mut wrong = less.clone();
        wrong["TargetTableName"] = json!("wrong");
        wrong[member] = value;
        assert_eq!(bench.call("RestoreTableFromBackup", wrong).await.unwrap_err().code, "ValidationException");
    }
    let mut encrypted = less;
    encrypted["TargetTableName"] = json!("wrong");
    encrypted["SSESpecificationOverride"] = json!({ "Enabled": true });
    assert_eq!(bench.call("RestoreTableFromBackup", encrypted).await.unwrap_err().code, "NotImplementedException");
}

#[tokio::test]
async fn backups_are_listed_in_pages_by_kind_and_time() {
    let bench = Bench::with_items().await;
    bench.create("other", &[("id", "S")]).await;
    for number in 0..5 {
        bench.backup(&format!("backup-{number}")).await;
        bench.clock.advance(Duration::from_secs(10));
    }
    bench.ok("CreateBackup", json!({ "TableName": "other", "BackupName": "else" })).await;
    bench.settle().await;
    let names = |answer: &Json| -> Vec<String> {
        let list = answer["BackupSummaries"].as_array().unwrap();
        list.iter().map(|one| one["BackupName"].as_str().unwrap().to_owned()).collect()
    };
    let first = bench.ok("ListBackups", json!({ "TableName": "items", "Limit": 2 })).await;
    assert_eq!(names(&first), ["backup-0", "backup-1"]);
    let rest = json!({ "TableName": "items", "ExclusiveStartBackupArn": first["LastEvaluatedBackupArn"] });
    let rest = bench.ok("ListBackups", rest).await;
    assert_eq!((names(&rest).len(), &rest["LastEvaluatedBackupArn"]), (3, &Json::Null));
    assert_eq!(names(&bench.ok("ListBackups", json!({})).await).len(), 6);
    assert_eq!(names(&bench.ok("ListBackups", json!({ "BackupType": "SYSTEM" })).await).len(), 0);
    let between = json!({
        "TableName": "items", "TimeRangeLowerBound": 1_700_000_010, "TimeRangeUpperBound": 1_700_000_030,
    });
    assert_eq!(names(&bench.ok("ListBackups", between).await), ["backup-1", "backup-2"]);
    let missing = "Table not found: nothing";
    let input = json!({ "TableName": "nothing", "BackupName": "abc" });
    bench.refused("CreateBackup", input, "TableNotFoundException", missing).await;
    let message = "2 validation errors detected: Value '!' at 'backupName' failed to satisfy constraint: Member must \
                   satisfy regular expression pattern: [a-zA-Z0-9_.-]+; Value '!' at 'backupName' failed to satisfy \
                   constraint: Member must have length greater than or equal to 3";
    bench.invalid("CreateBackup", json!({ "TableName": "items", "BackupName": "!" }), message).await;
}

#[tokio::test]
async fn a_table_is_restored_to_what_it_was_at_a_time() {
    let bench = Bench::with_items().await;
    let restore = |more: Json| {
        let mut input = json!({ "SourceTableName": "items", "TargetTableName": "then" });
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        input
    };
    let latest = restore(json!({ "UseLatestRestorableTime": true }));
    let message = "Point in time recovery is not enabled for table 'items'";
    bench.refused("RestoreTableToPointInTime", latest, "PointInTimeRecoveryUnavailableException", message).await;
    bench.write("before", Some("0")).await;
    let described = bench.recovery(true).await;
    let recovery = &described["PointInTimeRecoveryDescription"];
    assert_eq!(
        (&recovery["PointInTimeRecoveryStatus"], &recovery["RecoveryPeriodInDays"]),
        (&json!("ENABLED"), &json!(35))
    );
    let mut models = Vec::new();
    for round in 0..6 {
        bench.clock.advance(Duration::from_secs(10));
        bench.write("a", Some(&round.to_string())).await;
        bench.write(&format!("b{}", round % 3), (round % 2 == 0).then_some("x")).await;
        bench.write("before", (round < 3).then_some("0")).await;
        models.push((1_700_000_000 + 10 * (round + 1) + 1, bench.model_of("items").await));
    }
    bench.clock.advance(Duration::from_secs(10));
    for (at_s, model) in models {
        let name = format!("at-{at_s}");
        let input = restore(json!({ "TargetTableName": name, "RestoreDateTime": at_s }));
        bench.ok("RestoreTableToPointInTime", input).await;
        // Nothing of this may be seen.
        bench.write("a", Some("later")).await;
        bench.settle().await;
        assert_eq!(bench.model_of(&name).await, model, "{at_s}");
        assert_eq!(bench.table(&name).await["ItemCount"], model.len());
        assert_eq!(bench.table(&name).await["RestoreSummary"]["RestoreDateTime"].as_f64(), Some(f64::from(at_s)));
    }
    for wrong in [1_699_999_999, 1_800_000_000] {
        let error = bench.call("RestoreTableToPointInTime", restore(json!({ "RestoreDateTime": wrong }))).await;
        assert_eq!(error.unwrap_err().code, "InvalidRestoreTimeException");
    }
    let neither = restore(json!({}));
    assert_eq!(bench.call("RestoreTableToPointInTime", neither).await.unwrap_err().code, "ValidationException");
    assert!(bench.keys_of(b'v').await > 0);
    bench.recovery(false).await;
    bench.settle().await;
    assert_eq!((bench.keys_of(b'v').await, bench.keys_of(b'o').await), (0, 0));
}

#[tokio::test]
async fn a_deleted_table_with_recovery_can_be_had_back_for_35_days() {
    let bench = Bench::with_items().await;
    bench.recovery(true).await;
    bench.write("a", Some("1")).await;
    bench.ok("DeleteTable", json!({ "TableName": "items" })).await;
    bench.settle().await;
    let listed = bench.ok("ListBackups", json!({ "BackupType": "ALL" })).await["BackupSummaries"].clone();
    assert_eq!((&listed[0]["BackupType"], &listed[0]["BackupStatus"]), (&json!("SYSTEM"), &json!("AVAILABLE")));
    assert_eq!(listed[0]["BackupName"], "items$DeletedTableBackup");
    let arn = listed[0]["BackupArn"].clone();
    bench.ok("RestoreTableFromBackup", json!({ "BackupArn": arn, "TargetTableName": "items" })).await;
    bench.settle().await;
    assert_eq!(bench.model_of("items").await, Model::from([("a".into(), "1".into())]));
    let day = Duration::from_secs(24 * 3_600);
    bench.clock.advance(day * 35 - Duration::from_secs(1));
    bench.settle().await;
    bench.describe_backup(arn.as_str().unwrap()).await;
    bench.clock.advance(Duration::from_secs(1));
    bench.settle().await;
    assert_eq!(bench.ok("ListBackups", json!({ "BackupType": "ALL" })).await, json!({ "BackupSummaries": [] }));
    bench.ok("DeleteTable", json!({ "TableName": "items" })).await;
    bench.settle().await;
    let left = bench.stored().await;
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn what_is_older_than_the_period_is_forgotten() {
    let bench = Bench::with_items().await;
    let specification = json!({ "PointInTimeRecoveryEnabled": true, "RecoveryPeriodInDays": 1 });
    let input = json!({ "TableName": "items", "PointInTimeRecoverySpecification": specification });
    bench.ok("UpdateContinuousBackups", input).await;
    for round in 0..3 {
        bench.write("a", Some(&round.to_string())).await;
        bench.clock.advance(Duration::from_secs(12 * 3_600));
        bench.settle().await;
    }
    // The first write is a day and a half ago.
    assert_eq!(bench.keys_of(b'v').await, 2);
    let described = bench.ok("DescribeContinuousBackups", json!({ "TableName": "items" })).await;
    let recovery = &described["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"];
    let earliest = recovery["EarliestRestorableDateTime"].as_f64().unwrap();
    assert!((earliest - (1_700_000_000.0 + 12.0 * 3_600.0)).abs() < 2.0, "{earliest}");
    for wrong in [0, 36] {
        let specification = json!({ "PointInTimeRecoveryEnabled": true, "RecoveryPeriodInDays": wrong });
        let input = json!({ "TableName": "items", "PointInTimeRecoverySpecification": specification });
        assert_eq!(bench.call("UpdateContinuousBackups", input).await.unwrap_err().code, "ValidationException");
    }
}

/// Many writers and two nodes that work on the same backups: each is one state, as pairs of items show that only change
/// together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_beside_writers_is_one_state_of_its_table() {
    let store = MemoryStore::shared();
    let node = |seed| Bench::of(store.clone(), seed, Config { removal_rows: 3, ..Config::default() });
    let nodes = [node(1), node(2)];
    nodes[0].create("items", &[("id", "S")]).await;
    let pair = |number: usize, value: usize| {
        let put = |side: &str| {
            let item = json!({ "id": { "S": format!("{side}{number}") }, "v": { "S": value.to_string() } });
            json!({ "Put": { "TableName": "items", "Item": item } })
        };
        json!({ "TransactItems": [put("l"), put("r")] })
    };
    for number in 0..20 {
        nodes[0].ok("TransactWriteItems", pair(number, 0)).await;
    }
    let all = nodes.clone();
    at_once(6, move |task| {
        let bench = all[task % 2].clone();
        async move {
            for round in 0..30 {
                if task < 2 {
                    if round % 10 == task {
                        bench.backup(&format!("backup-{task}-{round}")).await;
                    }
                    bench.service.sweep().await.unwrap();
                } else {
                    bench.ok("TransactWriteItems", pair((round * 7 + task * 3) % 20, task * 1_000 + round)).await;
                }
            }
        }
    })
    .await;
    nodes[0].settle().await;
    let listed = nodes[0].ok("ListBackups", json!({})).await["BackupSummaries"].clone();
    let arns: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["BackupArn"].clone()).collect();
    assert_eq!(arns.len(), 6);
    for (number, arn) in arns.iter().enumerate() {
        let name = format!("restored-{number}");
        nodes[1].ok("RestoreTableFromBackup", json!({ "BackupArn": arn, "TargetTableName": name })).await;
        nodes[1].settle().await;
        let model = nodes[1].model_of(&name).await;
        assert_eq!(model.len(), 40);
        for number in 0..20 {
            assert_eq!(model[&format!("l{number}")], model[&format!("r{number}")], "{arn}");
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(u8, Option<u8>),
    Backup,
    Sweep,
    Wait,
    Mark,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..6, prop::option::of(0u8..9)).prop_map(|(id, value)| Step::Write(id, value)),
        1 => Just(Step::Backup),
        3 => Just(Step::Sweep),
        2 => Just(Step::Wait),
        1 => Just(Step::Mark),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_backup_and_any_time_is_what_the_table_was(steps in prop::collection::vec(step(), 1..60), recovers: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::of(MemoryStore::shared(), 1, Config { removal_rows: 2, ..Config::default() });
            bench.create("items", &[("id", "S")]).await;
            if recovers {
                bench.recovery(true).await;
            }
            let (mut model, mut backups, mut times) = (Model::new(), Vec::new(), Vec::new());
            for step in &steps {
                match step {
                    Step::Write(id, value) => {
                        let (id, value) = (id.to_string(), value.map(|value| value.to_string()));
                        bench.write(&id, value.as_deref()).await;
                        match value {
                            Some(value) => model.insert(id, value),
                            None => model.remove(&id),
                        };
                    }
                    Step::Backup => backups.push((bench.backup("backup").await, model.clone())),
                    Step::Sweep => {
                        bench.service.sweep().await.unwrap();
                    }
                    Step::Wait => {
                        bench.clock.advance(Duration::from_secs(1));
                    }
                    Step::Mark if recovers => {
                        times.push((base::Clock::now_ms(&*bench.clock), model.clone()));
                        bench.clock.advance(Duration::from_secs(1));
                    }
                    Step::Mark => {}
                }
            }
            bench.settle().await;
            for (number, (arn, model)) in backups.iter().enumerate() {
                let name = format!("backup-{number}");
                bench.ok("RestoreTableFromBackup", json!({ "BackupArn": arn, "TargetTableName": name })).await;
                bench.settle().await;
                assert_eq!(&bench.model_of(&name).await, model, "{arn}");
                assert_eq!(bench.describe_backup(arn).await["SourceTableDetails"]["ItemCount"], model.len());
            }
            for (number, (at_ms, model)) in times.iter().enumerate() {
                let name = format!("time-{number}");
                #[expect(clippy::cast_precision_loss, reason = "times of this age fit")]
                let at = *at_ms as f64 / 1_000.0;
                let input = json!({ "SourceTableName": "items", "TargetTableName": name, "RestoreDateTime": at });
                bench.ok("RestoreTableToPointInTime", input).await;
                bench.settle().await;
                assert_eq!(&bench.model_of(&name).await, model, "{at_ms}");
            }
        });
    }
}
