//! Expiry of items: states, marks, and what is removed when.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// The second at which benches begin.
const NOW_S: u64 = 1_700_000_000;
const CHANGED: &str = "Time to live has been modified multiple times within a fixed interval";

fn item(id: &str, due_s: u64) -> Json {
    json!({ "id": { "S": id }, "due": { "N": due_s.to_string() } })
}

impl Bench {
    async fn expire_by(&self, attribute: &str, enabled: bool) -> Result<Json, Refusal> {
        let specification = json!({ "Enabled": enabled, "AttributeName": attribute });
        self.call("UpdateTimeToLive", json!({ "TableName": "items", "TimeToLiveSpecification": specification })).await
    }

    async fn expiry(&self) -> Json {
        self.ok("DescribeTimeToLive", json!({ "TableName": "items" })).await["TimeToLiveDescription"].clone()
    }

    async fn sweep_all(&self) {
        while self.service.sweep().await.unwrap() > 0 {}
    }

    async fn ids(&self) -> Vec<String> {
        let scan = self.ok("Scan", json!({ "TableName": "items" })).await;
        let mut ids: Vec<_> =
            scan["Items"].as_array().unwrap().iter().map(|i| i["id"]["S"].as_str().unwrap().into()).collect();
        ids.sort_unstable();
        ids
    }

    /// How many marks of due things there are.
    async fn marks(&self) -> usize {
        let marks = super::super::keys::all_due();
        self.service.shared.store.range(&marks).await.unwrap().entries.len()
    }
}

#[tokio::test]
async fn expiry_is_turned_on_and_off_in_steps() {
    let bench = Bench::with_items().await;
    assert_eq!(bench.expiry().await, json!({ "TimeToLiveStatus": "DISABLED" }));
    let refused = async |attribute: &str, enabled: bool, message: &str| {
        let error = bench.expire_by(attribute, enabled).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("ValidationException", message));
    };
    refused("due", false, "TimeToLive is already disabled").await;
    let answer = bench.expire_by("due", true).await.unwrap();
    assert_eq!(answer, json!({ "TimeToLiveSpecification": { "Enabled": true, "AttributeName": "due" } }));
    assert_eq!(bench.expiry().await, json!({ "TimeToLiveStatus": "ENABLING", "AttributeName": "due" }));
    refused("due", true, CHANGED).await;
    bench.sweep_all().await;
    assert_eq!(bench.expiry().await, json!({ "TimeToLiveStatus": "ENABLED", "AttributeName": "due" }));
    refused("due", true, "TimeToLive is already enabled").await;
    for enabled in [true, false] {
        refused("other", enabled, "TimeToLive is active on a different AttributeName: current AttributeName is due")
            .await;
    }
    bench.expire_by("due", false).await.unwrap();
    assert_eq!(bench.expiry().await, json!({ "TimeToLiveStatus": "DISABLING", "AttributeName": "due" }));
    bench.sweep_all().await;
    assert_eq!(bench.expiry().await, json!({ "TimeToLiveStatus": "DISABLED" }));
    bench.expire_by("other", true).await.unwrap();
    let input = json!({ "TableName": "absent", "TimeToLiveSpecification": { "Enabled": true, "AttributeName": "a" } });
    let message = "Requested resource not found: Table: absent not found";
    bench.refused("UpdateTimeToLive", input, "ResourceNotFoundException", message).await;
    let input = json!({ "TableName": "items", "TimeToLiveSpecification": {} });
    let message = "2 validation errors detected: Value null at 'timeToLiveSpecification.attributeName' failed to satisfy \
                   constraint: Member must not be null; Value null at 'timeToLiveSpecification.enabled' failed to satisfy \
                   constraint: Member must not be null";
    bench.invalid("UpdateTimeToLive", input, message).await;
}

#[tokio::test]
async fn items_are_removed_when_their_time_is_over() {
    let bench = Bench::with_items().await;
    bench.put("items", item("before", NOW_S + 10)).await;
    bench.put("items", item("long-ago", NOW_S - 6 * 365 * 86_400)).await;
    bench.put("items", item("some-time-ago", NOW_S - 4 * 365 * 86_400)).await;
    bench.put("items", json!({ "id": { "S": "text" }, "due": { "S": "1" } })).await;
    bench.put("items", json!({ "id": { "S": "zero" }, "due": { "N": "0" } })).await;
    bench.expire_by("due", true).await.unwrap();
    bench.put("items", item("after", NOW_S + 20)).await;
    bench.put("items", item("moved", NOW_S + 10)).await;
    bench.put("items", item("moved", NOW_S + 99)).await;
    bench.put("items", item("kept", NOW_S + 10)).await;
    let kept = json!({ "TableName": "items", "Key": { "id": { "S": "kept" } }, "UpdateExpression": "REMOVE due" });
    bench.ok("UpdateItem", kept).await;
    bench.put("items", item("fraction", NOW_S)).await;
    bench.sweep_all().await;
    let staying = ["after", "before", "fraction", "kept", "long-ago", "moved", "text", "zero"];
    assert_eq!(bench.ids().await, staying);
    bench.clock.advance(Duration::from_secs(1));
    bench.sweep_all().await;
    assert!(!bench.ids().await.contains(&"fraction".into()));
    bench.clock.advance(Duration::from_secs(10));
    bench.sweep_all().await;
    assert_eq!(bench.ids().await, ["after", "kept", "long-ago", "moved", "text", "zero"]);
    bench.clock.advance(Duration::from_secs(10));
    bench.sweep_all().await;
    assert_eq!(
        (bench.ids().await, bench.marks().await),
        (["kept", "long-ago", "moved", "text", "zero"].map(String::from).to_vec(), 1)
    );
    let table = bench.ok("DescribeTable", json!({ "TableName": "items" })).await["Table"].clone();
    assert_eq!(table["ItemCount"], json!(5));
}

#[tokio::test]
async fn nothing_is_removed_or_marked_where_expiry_is_off() {
    let bench = Bench::with_items().await;
    bench.put("items", item("a", NOW_S - 10)).await;
    bench.sweep_all().await;
    assert_eq!((bench.ids().await.len(), bench.marks().await), (1, 0));
    bench.expire_by("due", true).await.unwrap();
    for id in 0..20 {
        bench.put("items", item(&id.to_string(), NOW_S + 10)).await;
    }
    bench.ok("DeleteItem", json!({ "TableName": "items", "Key": { "id": { "S": "a" } } })).await;
    bench.sweep_all().await;
    assert_eq!((bench.ids().await.len(), bench.marks().await), (20, 20));
    bench.expire_by("due", false).await.unwrap();
    bench.put("items", item("while-disabling", NOW_S + 10)).await;
    bench.sweep_all().await;
    assert_eq!((bench.ids().await.len(), bench.marks().await), (21, 0));
    bench.clock.advance(Duration::from_secs(60));
    bench.sweep_all().await;
    assert_eq!(bench.ids().await.len(), 21);
}

#[tokio::test]
async fn a_deleted_table_leaves_no_marks() {
    let bench = Bench::with_items().await;
    bench.expire_by("due", true).await.unwrap();
    for id in 0..20 {
        bench.put("items", item(&id.to_string(), NOW_S + 10_000)).await;
    }
    bench.ok("DeleteTable", json!({ "TableName": "items" })).await;
    bench.sweep_all().await;
    let left = bench.stored().await;
    assert!(left.is_empty(), "{left:?}");
    // The same with marks and all.
    bench.create("items", &[("id", "S")]).await;
    bench.expire_by("due", true).await.unwrap();
    bench.sweep_all().await;
    bench.put("items", item("a", NOW_S + 10_000)).await;
    bench.ok("DeleteTable", json!({ "TableName": "items" })).await;
    bench.create("items", &[("id", "S")]).await;
    bench.put("items", item("a", NOW_S + 10_000)).await;
    bench.sweep_all().await;
    bench.clock.advance(Duration::from_secs(20_000));
    bench.sweep_all().await;
    assert_eq!((bench.ids().await, bench.marks().await), (vec!["a".into()], 0));
}

/// Writers that move times back and forth while expiry is turned on and off: marks and items agree in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_follow_their_items_under_concurrent_writes() {
    let store = MemoryStore::shared();
    let nodes = [Bench::over(store.clone(), 1), Bench::over(store, 2)];
    nodes[0].create("items", &[("id", "S")]).await;
    let both = nodes.clone();
    at_once(6, move |number| {
        let bench = both[number % 2].clone();
        async move {
            for round in 0..30u64 {
                if number < 2 {
                    // Both turn it on and off; one of them finds it changing.
                    let _ = bench.expire_by("due", round % 2 == 0).await;
                    let _ = bench.service.sweep().await;
                    continue;
                }
                let id = ((round + number as u64) % 7).to_string();
                if round % 5 == 4 {
                    bench.ok("DeleteItem", json!({ "TableName": "items", "Key": { "id": { "S": id } } })).await;
                } else {
                    bench.put("items", item(&id, NOW_S + 1_000 + round)).await;
                }
            }
        }
    })
    .await;
    nodes[0].sweep_all().await;
    if nodes[0].expiry().await["TimeToLiveStatus"] == "DISABLED" {
        assert_eq!(nodes[0].marks().await, 0);
        nodes[0].expire_by("due", true).await.unwrap();
        nodes[0].sweep_all().await;
    }
    assert_eq!(nodes[0].marks().await, nodes[0].ids().await.len());
    nodes[0].clock.advance(Duration::from_secs(2_000));
    nodes[0].sweep_all().await;
    assert_eq!((nodes[0].marks().await, nodes[0].ids().await.len()), (0, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Option<u64>),
    Delete(u8),
    Wait(u64),
    Turn(bool),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_sequence_expires_as_the_model_says(steps in prop::collection::vec(prop_oneof![
        4 => (0u8..4, prop::option::of(0u64..30)).prop_map(|(id, due)| Step::Put(id, due)),
        1 => (0u8..4).prop_map(Step::Delete),
        2 => (1u64..15).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Turn),
    ], 0..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::with_items().await;
            let mut model: BTreeMap<String, Option<u64>> = BTreeMap::new();
            let (mut on, mut now) = (false, NOW_S);
            for step in steps {
                match step {
                    Step::Put(id, due) => {
                        let item = match due {
                            Some(due) => item(&id.to_string(), NOW_S + due),
                            None => json!({ "id": { "S": id.to_string() } }),
                        };
                        bench.put("items", item).await;
                        model.insert(id.to_string(), due.map(|due| NOW_S + due));
                    }
                    Step::Delete(id) => {
                        bench.ok("DeleteItem", json!({ "TableName": "items", "Key": { "id": { "S": id.to_string() } } })).await;
                        model.remove(&id.to_string());
                    }
                    Step::Wait(seconds) => {
                        bench.clock.advance(Duration::from_secs(seconds));
                        now += seconds;
                    }
                    Step::Turn(enabled) => {
                        assert_eq!(bench.expire_by("due", enabled).await.is_ok(), on != enabled);
                        on = enabled;
                    }
                }
                bench.sweep_all().await;
                if on {
                    model.retain(|_, due| due.is_none_or(|due| due >= now));
                }
                assert_eq!(bench.ids().await, model.keys().cloned().collect::<Vec<_>>());
                let marks = if on { model.values().flatten().count() } else { 0 };
                assert_eq!(bench.marks().await, marks);
            }
        });
    }
}
