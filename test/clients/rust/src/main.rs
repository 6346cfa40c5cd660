//! Plays the scenarios of test/clients with the official Rust client: scenarios ENDPOINT PREFIX.
//!
//! Prints one line of JSON for each scenario: {"scenario": name, "result": what can be compared}. Nothing that changes from
//! run to run is in it: no ids, no times. The topics and groups PREFIX-SCENARIO are there before it starts. This client has
//! no push consumer, and neither changes invisible times nor recalls.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rocketmq::conf::{ClientOption, ProducerOption, SimpleConsumerOption};
use rocketmq::error::{ClientError, ErrorKind};
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::{MessageBuilder, MessageView};
use rocketmq::model::transaction::{Transaction, TransactionResolution};
use rocketmq::{Producer, SimpleConsumer};
use serde_json::{json, Value};

/// How long a receive waits; the reference refuses what leaves it less than five seconds.
const POLL: Duration = Duration::from_secs(7);
/// Longer than a scenario needs to acknowledge.
const INVISIBLE: Duration = Duration::from_secs(30);
/// How long a scenario waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Seen = Result<Value, Failure>;

/// A place to play at, and whose topics and groups to take.
#[derive(Clone)]
struct Stage {
    endpoint: String,
    prefix: String,
}

impl Stage {
    fn name(&self, scenario: &str) -> String {
        format!("{}-{}", self.prefix, scenario)
    }

    fn options(&self) -> ClientOption {
        let mut o = ClientOption::default();
        o.set_access_url(self.endpoint.clone());
        o.set_timeout(Duration::from_secs(10));
        o.set_long_polling_timeout(POLL);
        o
    }

    async fn producer(&self) -> Result<Producer, ClientError> {
        let mut p = Producer::new(ProducerOption::default(), self.options())?;
        p.start().await?;
        Ok(p)
    }

    async fn consumer(&self, topic: &str, expression: FilterExpression) -> Result<Consumer, ClientError> {
        self.consumer_of(topic, topic, expression).await
    }

    async fn consumer_of(&self, group: &str, topic: &str, expression: FilterExpression) -> Result<Consumer, ClientError> {
        let mut o = SimpleConsumerOption::default();
        o.set_consumer_group(group);
        o.set_topics(vec![topic]);
        let mut client = SimpleConsumer::new(o, self.options())?;
        client.start().await?;
        Ok(Consumer { client, topic: topic.to_string(), expression })
    }
}

struct Consumer {
    client: SimpleConsumer,
    topic: String,
    expression: FilterExpression,
}

impl Consumer {
    async fn receive(&self, most: i32, invisible: Duration) -> Result<Vec<MessageView>, ClientError> {
        self.client.receive_with(&self.topic, &self.expression, most, invisible).await
    }

    /// A receive that may find nothing: the reference says so later than this client waits.
    async fn poll(&self, most: i32, invisible: Duration) -> Result<Vec<MessageView>, ClientError> {
        match self.receive(most, invisible).await {
            Err(e) if *e.kind() == ErrorKind::ClientInternal => Ok(Vec::new()),
            other => other,
        }
    }

    async fn take(&self, got: &mut Vec<MessageView>) -> Result<(), ClientError> {
        for m in self.poll(16, INVISIBLE).await? {
            self.client.ack(&m).await?;
            got.push(m);
        }
        Ok(())
    }

    /// Receives and acknowledges until that many messages are there, then looks once more for one too many.
    async fn collect(&self, want: usize) -> Result<Vec<MessageView>, ClientError> {
        let mut got = Vec::new();
        let began = Instant::now();
        while got.len() < want && began.elapsed() < PATIENCE {
            self.take(&mut got).await?;
        }
        self.take(&mut got).await?;
        Ok(got)
    }

    async fn one(&self, invisible: Duration) -> Result<MessageView, Failure> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(m) = self.poll(1, invisible).await?.pop() {
                return Ok(m);
            }
        }
        Err("no message".into())
    }
}

fn all() -> FilterExpression {
    FilterExpression::new(FilterType::Tag, "*")
}

fn message(topic: impl Into<String>, body: impl Into<Vec<u8>>) -> MessageBuilder {
    MessageBuilder::builder().set_topic(topic).set_body(body.into())
}

fn property(key: &str, value: impl Into<String>) -> HashMap<String, String> {
    HashMap::from([(key.to_string(), value.into())])
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// "ok", or the kind of the error and the protocol's code where it carries one.
async fn outcome<T>(call: impl Future<Output = Result<T, ClientError>>) -> String {
    let Err(e) = call.await else { return "ok".to_string() };
    let code = e.context().iter().find(|(key, _)| *key == "code").map_or("", |(_, code)| code);
    format!("{:?} {}", e.kind(), code).trim_end().to_string()
}

async fn send(p: &Producer, m: MessageBuilder) -> Result<(), ClientError> {
    p.send(m.build()?).await.map(|_| ())
}

fn text(m: &MessageView) -> String {
    String::from_utf8_lossy(m.body()).to_string()
}

fn bodies(messages: &[MessageView]) -> Vec<String> {
    let mut all: Vec<String> = messages.iter().map(text).collect();
    all.sort();
    all
}

fn view(m: &MessageView) -> Value {
    let mut keys = m.keys().to_vec();
    keys.sort();
    let properties: BTreeMap<_, _> = m.properties().iter().collect();
    json!({"body": text(m), "tag": m.tag(), "keys": keys, "properties": properties, "group": m.message_group(), "attempt": m.delivery_attempt()})
}

async fn normal(s: Stage) -> Seen {
    let topic = s.name("normal");
    let (p, c) = (s.producer().await?, s.consumer(&topic, all()).await?);
    for i in 0..5 {
        let properties = HashMap::from([("color".to_string(), "blue".to_string()), ("number".to_string(), i.to_string())]);
        let m = message(&topic, format!("body {i}")).set_tag(format!("tag{}", i % 2));
        send(&p, m.set_keys(vec![format!("key-{i}"), "shared".to_string()]).set_properties(properties)).await?;
    }
    send(&p, message(&topic, "bare")).await?;
    let mut got = c.collect(6).await?;
    got.sort_by_key(text);
    Ok(json!({"messages": got.iter().map(view).collect::<Vec<_>>()}))
}

async fn batch(s: Stage) -> Seen {
    let topic = s.name("async");
    let (p, c) = (s.producer().await?, s.consumer(&topic, all()).await?);
    let mut messages = Vec::new();
    for i in 0..5 {
        messages.push(message(&topic, format!("batch {i}")).build()?);
    }
    let ids: HashSet<String> = p.batch_send(messages).await?.iter().map(|r| r.message_id().to_string()).collect();
    Ok(json!({"distinct ids": ids.len(), "received": bodies(&c.collect(5).await?)}))
}

async fn filters(s: Stage, scenario: &str, expression: FilterExpression) -> Seen {
    let topic = s.name(scenario);
    let (p, c) = (s.producer().await?, s.consumer(&topic, expression).await?);
    for (i, tag) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let color = if i % 2 == 1 { "red" } else { "green" };
        let properties = HashMap::from([("number".to_string(), i.to_string()), ("color".to_string(), color.to_string())]);
        send(&p, message(&topic, format!("{tag}{i}")).set_tag(tag).set_properties(properties)).await?;
    }
    send(&p, message(&topic, "untagged")).await?;
    Ok(json!({"received": bodies(&c.collect(2).await?)}))
}

async fn tags(s: Stage) -> Seen {
    filters(s, "tags", FilterExpression::new(FilterType::Tag, "a || c")).await
}

async fn sql(s: Stage) -> Seen {
    filters(s, "sql", FilterExpression::new(FilterType::Sql, "number > 0 AND color = 'red' AND TAGS IS NOT NULL")).await
}

async fn expired(s: Stage) -> Seen {
    let topic = s.name("expired");
    let (p, c) = (s.producer().await?, s.consumer(&topic, all()).await?);
    send(&p, message(&topic, "late")).await?;
    let first = c.one(Duration::from_secs(10)).await?;
    let second = c.one(INVISIBLE).await?;
    Ok(json!({
        "attempts": [first.delivery_attempt(), second.delivery_attempt()], "late acknowledgement": outcome(c.client.ack(&first)).await,
        "acknowledged": outcome(c.client.ack(&second)).await,
    }))
}

async fn fifo(s: Stage) -> Seen {
    let topic = s.name("fifo");
    let (p, c) = (s.producer().await?, s.consumer(&topic, all()).await?);
    for i in 0..6 {
        for group in ["g1", "g2"] {
            send(&p, message(&topic, format!("{group} {i}")).set_message_group(group)).await?;
        }
    }
    let got = c.collect(12).await?;
    let mut order: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for m in &got {
        order.entry(m.message_group().unwrap_or("none").to_string()).or_default().push(text(m));
    }
    let attempts: BTreeSet<i32> = got.iter().map(|m| m.delivery_attempt()).collect();
    Ok(json!({"order": order, "attempts": attempts}))
}

async fn delay(s: Stage) -> Seen {
    let topic = s.name("delay");
    let (p, c) = (s.producer().await?, s.consumer(&topic, all()).await?);
    let due = now() + 4;
    send(&p, message(&topic, "delayed").set_delivery_timestamp(due)).await?;
    let m = c.one(INVISIBLE).await?;
    let early = now() < due;
    Ok(json!({
        "body": text(&m), "early": early, "says when": m.delivery_timestamp() == Some(due), "attempt": m.delivery_attempt(),
        "acknowledged": outcome(c.client.ack(&m)).await,
    }))
}

async fn transaction(s: Stage) -> Seen {
    let topic = s.name("transaction");
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let checked = asked.clone();
    let check = move |_: String, m: MessageView| {
        checked.lock().unwrap().insert(text(&m));
        match text(&m).as_str() {
            "committed" | "check: commit" => TransactionResolution::COMMIT,
            _ => TransactionResolution::ROLLBACK,
        }
    };
    let mut p = Producer::new_transaction_producer(ProducerOption::default(), s.options(), Box::new(check))?;
    p.start().await?;
    let c = s.consumer(&topic, all()).await?;
    let half = |body: &str| MessageBuilder::transaction_message_builder(&topic, body.into()).set_tag("t").build();
    let committed = p.send_transaction_message(half("committed")?).await?;
    let rolled = p.send_transaction_message(half("rolled back")?).await?;
    p.send_transaction_message(half("check: commit")?).await?;
    p.send_transaction_message(half("check: roll back")?).await?;
    let has_id = !committed.transaction_id().is_empty();
    let (commit, rollback) = (outcome(committed.commit()).await, outcome(rolled.rollback()).await);
    let received = bodies(&c.collect(2).await?);
    let asked = asked.lock().unwrap();
    Ok(json!({
        "has id": has_id, "commit": commit, "roll back": rollback, "received": received,
        "asked for what was open": asked.contains("check: commit") && asked.contains("check: roll back"),
    }))
}

async fn refused(s: Stage) -> Seen {
    let (topic, ordered) = (s.name("refused"), s.name("refused-fifo"));
    let p = Arc::new(s.producer().await?);
    let x = || message(&topic, "x");
    let many: HashMap<String, String> = (0..200).map(|i| (format!("p{i}"), "y".to_string())).collect();
    let cases = [
        ("unknown topic", message(s.name("nowhere"), "x")),
        ("illegal topic", message("no.such/topic!", "x")),
        ("system topic", message("SCHEDULE_TOPIC_XXXX", "x")),
        ("body too large", message(&topic, vec![b'x'; 4 * 1024 * 1024 + 1])),
        ("empty body", message(&topic, "")),
        ("tag with a bar", x().set_tag("a|b")),
        ("control character in a tag", x().set_tag("a\u{1}")),
        ("blank key", x().set_keys(vec![" "])),
        ("control character in a key", x().set_keys(vec!["a\u{1}"])),
        ("property of the system", x().set_properties(property("TAGS", "y"))),
        ("control character in a property", x().set_properties(property("a", "y\u{2}"))),
        ("properties too large", x().set_properties(property("a", "y".repeat(17000)))),
        ("too many properties", x().set_properties(many)),
        ("message group on a normal topic", x().set_message_group("g")),
        ("delay on a normal topic", x().set_delivery_timestamp(now() + 60)),
        ("normal on a FIFO topic", message(&ordered, "x")),
        ("blank message group", message(&ordered, "x").set_message_group(" ")),
        ("long message group", message(&ordered, "x").set_message_group("g".repeat(65))),
        ("delay too long", message(s.name("delay-far"), "x").set_delivery_timestamp(now() + 5 * 366 * 24 * 3600)),
    ];
    let mut result = BTreeMap::new();
    for (name, m) in cases {
        let p = p.clone();
        // this client panics when it is answered with a code that it does not know
        let answer = tokio::spawn(async move { outcome(send(&p, m)).await }).await;
        result.insert(name, answer.unwrap_or("panic".to_string()));
    }
    let unchecked = MessageBuilder::transaction_message_builder(&topic, "x".into()).build()?;
    result.insert("transaction without a checker", outcome(p.send_transaction_message(unchecked)).await);
    Ok(json!(result))
}

async fn refused_consumer(s: Stage) -> Seen {
    let topic = s.name("empty");
    let c = s.consumer(&topic, all()).await?;
    let receive = |group: String, topic: String, expression: FilterExpression| {
        let s = &s;
        outcome(async move { s.consumer_of(&group, &topic, expression).await?.poll(1, INVISIBLE).await })
    };
    Ok(json!({
        "nothing there": c.poll(16, INVISIBLE).await?.len(),
        "invisible too short": outcome(c.poll(16, Duration::from_secs(1))).await,
        "invisible too long": outcome(c.poll(16, Duration::from_secs(13 * 3600))).await,
        "no messages wanted": outcome(c.poll(0, INVISIBLE)).await,
        "broken SQL": receive(s.name("empty-sql"), topic.clone(), FilterExpression::new(FilterType::Sql, "a >")).await,
        "unknown topic": receive(topic.clone(), s.name("nowhere"), all()).await,
        "illegal group": receive("no group!".to_string(), topic.clone(), all()).await,
        "unknown group": receive(s.name("nobody"), topic.clone(), all()).await,
    }))
}

async fn play(scenario: &'static str, run: impl Future<Output = Seen> + Send + 'static) {
    let result = match tokio::time::timeout(2 * PATIENCE, tokio::spawn(run)).await {
        Ok(Ok(Ok(seen))) => seen,
        Ok(Ok(Err(e))) => json!({ "failed": e.to_string() }),
        Ok(Err(e)) => json!({ "failed": e.to_string() }),
        Err(_) => json!({"failed": "not in time"}),
    };
    println!("{}", json!({"scenario": scenario, "result": result}));
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(endpoint), Some(prefix)) = (args.next(), args.next()) else { panic!("scenarios ENDPOINT PREFIX") };
    let s = Stage { endpoint, prefix };
    tokio::join!(
        play("normal", normal(s.clone())),
        play("batch", batch(s.clone())),
        play("tags", tags(s.clone())),
        play("sql", sql(s.clone())),
        play("expired", expired(s.clone())),
        play("fifo", fifo(s.clone())),
        play("delay", delay(s.clone())),
        play("transaction", transaction(s.clone())),
        play("refused", refused(s.clone())),
        play("refused-consumer", refused_consumer(s.clone())),
    );
    std::process::exit(0)
}
