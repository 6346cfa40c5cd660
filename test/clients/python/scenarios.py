"""Plays the scenarios of test/clients with the official Python client: scenarios.py ENDPOINT PREFIX.

Prints one line of JSON for each scenario: {"scenario": name, "result": what can be compared}. Nothing that changes from run
to run is in it: no ids, no times. The topics and groups PREFIX-SCENARIO are there before it starts.
"""
import json
import sys
import threading
import time

from rocketmq import (ClientConfiguration, ConsumeResult, Credentials,
                      FilterExpression, Message, MessageListener, Producer,
                      PushConsumer, SimpleConsumer, TransactionChecker,
                      TransactionResolution)
from rocketmq.grpc_protocol import FilterType

ENDPOINT, PREFIX = sys.argv[1], sys.argv[2]
POLL = 5  # seconds that a receive waits; the reference refuses less
INVISIBLE = 30  # seconds: longer than a scenario needs to acknowledge
PATIENCE = 60  # seconds that a scenario waits for what must come


def name(scenario):
    return f"{PREFIX}-{scenario}"


def configuration():
    return ClientConfiguration(ENDPOINT, Credentials(), request_timeout=10)


def producer(topic, checker=None):
    p = Producer(configuration(), [topic], checker=checker)
    p.startup()
    return p


def consumer(topic, expression=None, group=None):
    c = SimpleConsumer(configuration(), group or topic, {topic: expression or FilterExpression()}, await_duration=POLL)
    c.startup()
    return c


def message(topic, body, tag=None, keys=(), group=None, due=None, **properties):
    m = Message()
    m.topic = topic
    m.body = body if isinstance(body, bytes) else body.encode()
    if tag is not None:
        m.tag = tag
    for key in keys:
        m.keys = key
    if group is not None:
        m.message_group = group
    if due is not None:
        m.delivery_timestamp = due
    for key, value in properties.items():
        m.add_property(key, value)
    return m


def outcome(call):
    """"ok", or the class of the error and the protocol's code where it carries one."""
    try:
        call()
        return "ok"
    except Exception as e:  # every kind of failure is a result here
        code = getattr(e, "code", None)
        return f"{type(e).__name__} {code}" if isinstance(code, int) else type(e).__name__


def receive(c, most, invisible, seconds=PATIENCE):
    """Asks again while the reference's proxy fails because it does not have the settings yet of a consumer that has just started."""
    end = time.monotonic() + seconds
    while True:
        try:
            return c.receive(most, invisible)
        except Exception as e:
            if "NullPointerException" not in str(e) or time.monotonic() > end:
                raise
            time.sleep(0.1)


def collect(c, want, seconds=PATIENCE):
    """Receives and acknowledges until `want` messages are there, then looks once more for one too many."""
    got, end = [], time.monotonic() + seconds
    while len(got) < want and time.monotonic() < end:
        for m in receive(c, 16, INVISIBLE):
            c.ack(m)
            got.append(m)
    for m in receive(c, 16, INVISIBLE):
        c.ack(m)
        got.append(m)
    return got


def one(c, invisible, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for m in receive(c, 1, invisible):
            return m
    raise TimeoutError("no message")


def text(m):
    return m.body.decode()


def view(m):
    return {"body": text(m), "tag": m.tag, "keys": sorted(m.keys), "properties": dict(sorted(m.properties.items())),
            "group": m.message_group, "attempt": m.delivery_attempt, "corrupted": m.corrupted}


def bodies(messages):
    return sorted(text(m) for m in messages)


def by_group(messages):
    order = {}
    for m in messages:
        order.setdefault(m.message_group, []).append(text(m))
    return dict(sorted(order.items()))


def normal():
    topic = name("normal")
    p, c = producer(topic), consumer(topic)
    for i in range(5):
        p.send(message(topic, f"body {i}", tag=f"tag{i % 2}", keys=(f"key-{i}", "shared"), color="blue", number=str(i)))
    p.send(message(topic, "bare"))
    return {"messages": sorted((view(m) for m in collect(c, 6)), key=lambda v: v["body"])}


def send_async():
    topic = name("async")
    p, c = producer(topic), consumer(topic)
    sent = [p.send_async(message(topic, f"async {i}")) for i in range(5)]
    receipts = [f.result(PATIENCE) for f in sent]
    return {"distinct ids": len({r.message_id for r in receipts}), "received": bodies(collect(c, 5))}


def filters(scenario, expression):
    topic = name(scenario)
    p, c = producer(topic), consumer(topic, expression)
    for i, tag in enumerate(("a", "b", "c", "d")):
        p.send(message(topic, f"{tag}{i}", tag=tag, number=str(i), color="red" if i % 2 else "green"))
    p.send(message(topic, "untagged"))
    return {"received": bodies(collect(c, 2))}


def tags():
    return filters("tags", FilterExpression("a || c"))


def sql():
    return filters("sql", FilterExpression("number > 0 AND color = 'red' AND TAGS IS NOT NULL", FilterType.SQL))


def redelivery():
    topic = name("redelivery")
    p, c = producer(topic), consumer(topic)
    p.send(message(topic, "again"))
    first = one(c, INVISIBLE)
    old = first.receipt_handle
    changed = outcome(lambda: c.change_invisible_duration(first, 2))
    began = time.monotonic()
    second = one(c, INVISIBLE)
    return {
        "changed": changed, "new handle": first.receipt_handle != old, "attempts": [first.delivery_attempt, second.delivery_attempt],
        "early": time.monotonic() - began < 1.5, "acknowledged": outcome(lambda: c.ack(second)),
        "after that": len(receive(c, 16, INVISIBLE)),
    }


def expired():
    topic = name("expired")
    p, c = producer(topic), consumer(topic)
    p.send(message(topic, "late"))
    first = one(c, 10)
    second = one(c, INVISIBLE)
    return {
        "attempts": [first.delivery_attempt, second.delivery_attempt], "late acknowledgement": outcome(lambda: c.ack(first)),
        "late change": outcome(lambda: c.change_invisible_duration(first, 10)), "acknowledged": outcome(lambda: c.ack(second)),
    }


def fifo():
    topic = name("fifo")
    p, c = producer(topic), consumer(topic)
    for i in range(6):
        for group in ("g1", "g2"):
            p.send(message(topic, f"{group} {i}", group=group))
    got = collect(c, 12)
    return {"order": by_group(got), "attempts": sorted({m.delivery_attempt for m in got})}


def delay():
    topic = name("delay")
    p, c = producer(topic), consumer(topic)
    due = int(time.time()) + 4
    p.send(message(topic, "delayed", due=due))
    m = one(c, INVISIBLE)
    early = time.time() < due
    return {"body": text(m), "early": early, "says when": m.delivery_timestamp == due * 1000, "attempt": m.delivery_attempt,
            "acknowledged": outcome(lambda: c.ack(m))}


def recall():
    topic = name("recall")
    p, c = producer(topic), consumer(topic)
    receipt = p.send(message(topic, "recalled", due=int(time.time()) + 6))
    kept = p.send(message(topic, "kept", due=int(time.time()) + 8))
    result = {
        "handle": bool(receipt.recall_handle),
        "recalled": outcome(lambda: p.recall_message(topic, receipt.recall_handle)),
        "broken handle": outcome(lambda: p.recall_message(topic, "nonsense")),
        "received": bodies(collect(c, 1)),
    }
    result["delivered"] = outcome(lambda: p.recall_message(topic, kept.recall_handle))
    return result


class Checker(TransactionChecker):
    def __init__(self):
        self.asked = set()

    def check(self, m):
        self.asked.add(text(m))
        return TransactionResolution.COMMIT if text(m) in ("committed", "check: commit") else TransactionResolution.ROLLBACK


def transaction():
    topic = name("transaction")
    checker = Checker()
    p, c = producer(topic, checker), consumer(topic)

    def half(body):
        t = p.begin_transaction()
        receipt = p.send(message(topic, body, tag="t"), t)
        return t, bool(receipt.transaction_id)

    committed, has_id = half("committed")
    rolled, _ = half("rolled back")
    half("check: commit")
    half("check: roll back")
    result = {"has id": has_id, "commit": outcome(committed.commit), "roll back": outcome(rolled.rollback)}
    result["received"] = bodies(collect(c, 2))
    result["asked for what was open"] = {"check: commit", "check: roll back"} <= checker.asked
    return result


class Listener(MessageListener):
    """Fails the first time for a message whose body ends with a question mark."""

    def __init__(self):
        self.lock, self.got, self.failed = threading.Lock(), [], set()

    def consume(self, m):
        with self.lock:
            if text(m).endswith("?") and text(m) not in self.failed:
                self.failed.add(text(m))
                return ConsumeResult.FAILURE
            self.got.append(m)
            return ConsumeResult.SUCCESS


def pushed(topic, want, send):
    listener = Listener()
    p = producer(topic)
    c = PushConsumer(configuration(), topic, listener, {topic: FilterExpression()})
    c.startup()
    send(p)
    end = time.monotonic() + PATIENCE
    while len(listener.got) < want and time.monotonic() < end:
        time.sleep(0.1)
    c.shutdown()
    return listener.got


def push():
    topic = name("push")

    def send(p):
        for i in range(8):
            p.send(message(topic, f"body {i}" + ("?" if i == 3 else ""), tag="x"))

    got = pushed(topic, 8, send)
    return {"attempts": {text(m): m.delivery_attempt for m in sorted(got, key=text)}, "count": len(got)}


def push_fifo():
    topic = name("push-fifo")

    def send(p):
        for i in range(5):
            p.send(message(topic, f"{i}" + ("?" if i == 2 else ""), group="g"))

    return {"order": by_group(pushed(topic, 5, send))}


def refused():
    topic, ordered = name("refused"), name("refused-fifo")
    p = producer(topic)
    now = int(time.time())
    return {
        "unknown topic": outcome(lambda: p.send(message(name("nowhere"), "x"))),
        "illegal topic": outcome(lambda: p.send(message("no.such/topic!", "x"))),
        "system topic": outcome(lambda: p.send(message("SCHEDULE_TOPIC_XXXX", "x"))),
        "body too large": outcome(lambda: p.send(message(topic, b"x" * (4 * 1024 * 1024 + 1)))),
        "empty body": outcome(lambda: p.send(message(topic, b""))),
        "tag with a bar": outcome(lambda: p.send(message(topic, "x", tag="a|b"))),
        "control character in a tag": outcome(lambda: p.send(message(topic, "x", tag="a\x01"))),
        "blank key": outcome(lambda: p.send(message(topic, "x", keys=(" ",)))),
        "control character in a key": outcome(lambda: p.send(message(topic, "x", keys=("a\x01",)))),
        "property of the system": outcome(lambda: p.send(message(topic, "x", TAGS="y"))),
        "control character in a property": outcome(lambda: p.send(message(topic, "x", a="y\x02"))),
        "properties too large": outcome(lambda: p.send(message(topic, "x", a="y" * 17000))),
        "too many properties": outcome(lambda: p.send(message(topic, "x", **{f"p{i}": "y" for i in range(200)}))),
        "message group on a normal topic": outcome(lambda: p.send(message(topic, "x", group="g"))),
        "delay on a normal topic": outcome(lambda: p.send(message(topic, "x", due=now + 60))),
        "normal on a FIFO topic": outcome(lambda: p.send(message(ordered, "x"))),
        "blank message group": outcome(lambda: p.send(message(ordered, "x", group=" "))),
        "long message group": outcome(lambda: p.send(message(ordered, "x", group="g" * 65))),
        "delay too long": outcome(lambda: p.send(message(name("delay-far"), "x", due=now + 5 * 366 * 24 * 3600))),
        "transaction without a checker": outcome(lambda: p.begin_transaction()),
    }


def refused_consumer():
    topic = name("empty")
    c = consumer(topic)
    return {
        "nothing there": len(receive(c, 16, INVISIBLE)),
        "invisible too short": outcome(lambda: c.receive(16, 1)),
        "invisible too long": outcome(lambda: c.receive(16, 13 * 3600)),
        "no messages wanted": outcome(lambda: c.receive(0, INVISIBLE)),
        "broken SQL": outcome(lambda: consumer(topic, FilterExpression("a >", FilterType.SQL), name("empty-sql")).receive(1, INVISIBLE)),
        "unknown topic": outcome(lambda: consumer(name("nowhere"), group=topic).receive(1, INVISIBLE)),
        "illegal group": outcome(lambda: consumer(topic, group="no group!").receive(1, INVISIBLE)),
        "unknown group": outcome(lambda: consumer(topic, group=name("nobody")).receive(1, INVISIBLE)),
    }


SCENARIOS = {
    "normal": normal, "async": send_async, "tags": tags, "sql": sql, "redelivery": redelivery, "expired": expired, "fifo": fifo,
    "delay": delay, "recall": recall, "transaction": transaction, "push": push, "push-fifo": push_fifo, "refused": refused,
    "refused-consumer": refused_consumer,
}
printing = threading.Lock()


def play(scenario, run):
    try:
        result = run()
    except Exception as e:
        result = {"failed": f"{type(e).__name__}: {e}"}
    with printing:
        print(json.dumps({"scenario": scenario, "result": result}), flush=True)


def main():
    threads = [threading.Thread(target=play, args=item, daemon=True) for item in SCENARIOS.items()]
    for t in threads:
        t.start()
    for t in threads:
        t.join(2 * PATIENCE)
    sys.stdout.flush()
    sys.exit(0)


if __name__ == "__main__":
    main()
