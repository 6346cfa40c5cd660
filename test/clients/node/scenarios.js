// Plays the scenarios of test/clients with the official Node client: scenarios.js ENDPOINT PREFIX.
//
// Prints one line of JSON for each scenario: {"scenario": name, "result": what can be compared}. Nothing that changes from
// run to run is in it: no ids, no times. The topics and groups PREFIX-SCENARIO are there before it starts.
'use strict';

const { ConsumeResult, FilterExpression, Producer, PushConsumer, SimpleConsumer } = require('rocketmq-client-nodejs');
const { FilterType, TransactionResolution } = require('rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb');

const [ endpoints, prefix ] = process.argv.slice(2);
const POLL = 5000; // ms that a receive waits; the reference refuses less
const INVISIBLE = 30000; // ms: longer than a scenario needs to acknowledge
const PATIENCE = 60000; // ms that a scenario waits for what must come

const print = console.log;
const log = (...args) => console.error(...args);
const logger = { debug() {}, info() {}, warn: log, error: log, log };
const options = { endpoints, namespace: '', requestTimeout: 10000, logger };
const name = scenario => `${prefix}-${scenario}`;
const pause = ms => new Promise(done => setTimeout(done, ms));

async function producer(topic, checker) {
  const p = new Producer({ ...options, topics: [ topic ], checker });
  await p.startup();
  return p;
}

async function consumer(topic, expression = FilterExpression.SUB_ALL, group = topic) {
  const c = new SimpleConsumer({ ...options, consumerGroup: group, subscriptions: new Map([[ topic, expression ]]), awaitDuration: POLL });
  await c.startup();
  return c;
}

function message(topic, body, more = {}) {
  return { topic, body: Buffer.from(body), ...more, properties: new Map(Object.entries(more.properties ?? {})) };
}

// "ok", or the class of the error and the protocol's code where it carries one.
async function outcome(call) {
  try {
    await call();
    return 'ok';
  } catch (e) {
    const code = e.code ?? /\(code: (\d+)\)/.exec(e.message)?.[1];
    return code === undefined ? e.constructor.name : `${e.constructor.name} ${code}`;
  }
}

// Receives and acknowledges until that many messages are there, then looks once more for one too many.
async function collect(c, want) {
  const got = [];
  async function more() {
    for (const m of await c.receive(16, INVISIBLE)) {
      await c.ack(m);
      got.push(m);
    }
  }
  for (const end = Date.now() + PATIENCE; got.length < want && Date.now() < end;) await more();
  await more();
  return got;
}

async function one(c, invisible) {
  for (const end = Date.now() + PATIENCE; Date.now() < end;) {
    for (const m of await c.receive(1, invisible)) return m;
  }
  throw new Error('no message');
}

const text = m => m.body.toString();
const sorted = object => Object.fromEntries(Object.entries(object).sort(([ a ], [ b ]) => (a < b ? -1 : 1)));
const bodies = messages => messages.map(text).sort();
const view = m => ({
  body: text(m), tag: m.tag ?? null, keys: [ ...m.keys ].sort(), properties: sorted(Object.fromEntries(m.properties)),
  group: m.messageGroup ?? null, attempt: m.deliveryAttempt, corrupted: m.corrupted,
});

function byGroup(messages) {
  const order = {};
  for (const m of messages) (order[m.messageGroup] ??= []).push(text(m));
  return sorted(order);
}

async function normal() {
  const topic = name('normal');
  const p = await producer(topic), c = await consumer(topic);
  for (let i = 0; i < 5; i++) {
    await p.send(message(topic, `body ${i}`, { tag: `tag${i % 2}`, keys: [ `key-${i}`, 'shared' ], properties: { color: 'blue', number: `${i}` } }));
  }
  await p.send(message(topic, 'bare'));
  return { messages: (await collect(c, 6)).map(view).sort((a, b) => (a.body < b.body ? -1 : 1)) };
}

async function sendAsync() {
  const topic = name('async');
  const p = await producer(topic), c = await consumer(topic);
  const receipts = await Promise.all([ 0, 1, 2, 3, 4 ].map(i => p.send(message(topic, `async ${i}`))));
  return { 'distinct ids': new Set(receipts.map(r => r.messageId)).size, received: bodies(await collect(c, 5)) };
}

async function filters(scenario, expression) {
  const topic = name(scenario);
  const p = await producer(topic), c = await consumer(topic, expression);
  for (const [ i, tag ] of [ 'a', 'b', 'c', 'd' ].entries()) {
    await p.send(message(topic, `${tag}${i}`, { tag, properties: { number: `${i}`, color: i % 2 ? 'red' : 'green' } }));
  }
  await p.send(message(topic, 'untagged'));
  return { received: bodies(await collect(c, 2)) };
}

const tags = () => filters('tags', 'a || c');
const sql = () => filters('sql', new FilterExpression("number > 0 AND color = 'red' AND TAGS IS NOT NULL", FilterType.SQL));

async function redelivery() {
  const topic = name('redelivery');
  const p = await producer(topic), c = await consumer(topic);
  await p.send(message(topic, 'again'));
  const first = await one(c, INVISIBLE);
  const old = first.receiptHandle;
  const changed = await outcome(() => c.changeInvisibleDuration(first, 2000));
  const began = Date.now();
  const second = await one(c, INVISIBLE);
  return {
    changed, 'new handle': first.receiptHandle !== old, attempts: [ first.deliveryAttempt, second.deliveryAttempt ],
    early: Date.now() - began < 1500, acknowledged: await outcome(() => c.ack(second)), 'after that': (await c.receive(16, INVISIBLE)).length,
  };
}

async function expired() {
  const topic = name('expired');
  const p = await producer(topic), c = await consumer(topic);
  await p.send(message(topic, 'late'));
  const first = await one(c, 10000);
  const second = await one(c, INVISIBLE);
  return {
    attempts: [ first.deliveryAttempt, second.deliveryAttempt ], 'late acknowledgement': await outcome(() => c.ack(first)),
    'late change': await outcome(() => c.changeInvisibleDuration(first, 10000)), acknowledged: await outcome(() => c.ack(second)),
  };
}

async function fifo() {
  const topic = name('fifo');
  const p = await producer(topic), c = await consumer(topic);
  for (let i = 0; i < 6; i++) {
    for (const messageGroup of [ 'g1', 'g2' ]) await p.send(message(topic, `${messageGroup} ${i}`, { messageGroup }));
  }
  const got = await collect(c, 12);
  return { order: byGroup(got), attempts: [ ...new Set(got.map(m => m.deliveryAttempt)) ].sort() };
}

async function delay() {
  const topic = name('delay');
  const p = await producer(topic), c = await consumer(topic);
  const deliveryTimestamp = new Date((Math.floor(Date.now() / 1000) + 4) * 1000);
  await p.send(message(topic, 'delayed', { deliveryTimestamp }));
  const m = await one(c, INVISIBLE);
  const early = new Date() < deliveryTimestamp;
  return {
    body: text(m), early, 'says when': m.deliveryTimestamp?.getTime() === deliveryTimestamp.getTime(), attempt: m.deliveryAttempt,
    acknowledged: await outcome(() => c.ack(m)),
  };
}

async function recall() {
  const topic = name('recall');
  const p = await producer(topic), c = await consumer(topic);
  const receipt = await p.send(message(topic, 'recalled', { delay: 6000 }));
  const kept = await p.send(message(topic, 'kept', { delay: 8000 }));
  return {
    handle: !!receipt.recallHandle, recalled: await outcome(() => p.recallMessage(topic, receipt.recallHandle)),
    'broken handle': await outcome(() => p.recallMessage(topic, 'nonsense')), received: bodies(await collect(c, 1)),
    delivered: await outcome(() => p.recallMessage(topic, kept.recallHandle)),
  };
}

async function transaction() {
  const topic = name('transaction');
  const asked = new Set();
  const p = await producer(topic, {
    async check(m) {
      asked.add(text(m));
      return [ 'committed', 'check: commit' ].includes(text(m)) ? TransactionResolution.COMMIT : TransactionResolution.ROLLBACK;
    },
  });
  const c = await consumer(topic);
  async function half(body) {
    const t = p.beginTransaction();
    const receipt = await p.send(message(topic, body, { tag: 't' }), t);
    return [ t, !!receipt.transactionId ];
  }
  const [ committed, hasId ] = await half('committed');
  const [ rolled ] = await half('rolled back');
  await half('check: commit');
  await half('check: roll back');
  const result = { 'has id': hasId, commit: await outcome(() => committed.commit()), 'roll back': await outcome(() => rolled.rollback()) };
  result.received = bodies(await collect(c, 2));
  result['asked for what was open'] = asked.has('check: commit') && asked.has('check: roll back');
  return result;
}

// The listener fails the first time for a message whose body ends with a question mark.
async function pushed(topic, want, send) {
  const got = [], failed = new Set();
  const p = await producer(topic);
  const c = new PushConsumer({
    ...options, consumerGroup: topic, subscriptions: new Map([[ topic, '*' ]]),
    messageListener: {
      async consume(m) {
        if (text(m).endsWith('?') && !failed.has(text(m))) {
          failed.add(text(m));
          return ConsumeResult.FAILURE;
        }
        got.push(m);
        return ConsumeResult.SUCCESS;
      },
    },
  });
  await c.startup();
  await send(p);
  for (const end = Date.now() + PATIENCE; got.length < want && Date.now() < end;) await pause(100);
  await Promise.race([ c.shutdown(), pause(5000) ]);
  return got;
}

async function push() {
  const topic = name('push');
  const got = await pushed(topic, 8, async p => {
    for (let i = 0; i < 8; i++) await p.send(message(topic, `body ${i}${i === 3 ? '?' : ''}`, { tag: 'x' }));
  });
  return { attempts: sorted(Object.fromEntries(got.map(m => [ text(m), m.deliveryAttempt ]))), count: got.length };
}

// No message fails here: this client passes over one of a FIFO group that did.
async function pushFifo() {
  const topic = name('push-fifo');
  return {
    order: byGroup(await pushed(topic, 5, async p => {
      for (let i = 0; i < 5; i++) await p.send(message(topic, `${i}`, { messageGroup: 'g' }));
    })),
  };
}

async function refused() {
  const topic = name('refused'), ordered = name('refused-fifo');
  const p = await producer(topic);
  const send = (to, body, more) => outcome(() => p.send(message(to, body, more)));
  const many = Object.fromEntries(Array.from({ length: 200 }, (_, i) => [ `p${i}`, 'y' ]));
  return {
    'unknown topic': await send(name('nowhere'), 'x'),
    'illegal topic': await send('no.such/topic!', 'x'),
    'system topic': await send('SCHEDULE_TOPIC_XXXX', 'x'),
    'body too large': await send(topic, Buffer.alloc(4 * 1024 * 1024 + 1, 'x')),
    'empty body': await send(topic, ''),
    'tag with a bar': await send(topic, 'x', { tag: 'a|b' }),
    'control character in a tag': await send(topic, 'x', { tag: 'a\x01' }),
    'blank key': await send(topic, 'x', { keys: [ ' ' ] }),
    'control character in a key': await send(topic, 'x', { keys: [ 'a\x01' ] }),
    'property of the system': await send(topic, 'x', { properties: { TAGS: 'y' } }),
    'control character in a property': await send(topic, 'x', { properties: { a: 'y\x02' } }),
    'properties too large': await send(topic, 'x', { properties: { a: 'y'.repeat(17000) } }),
    'too many properties': await send(topic, 'x', { properties: many }),
    'message group on a normal topic': await send(topic, 'x', { messageGroup: 'g' }),
    'delay on a normal topic': await send(topic, 'x', { delay: 60000 }),
    'normal on a FIFO topic': await send(ordered, 'x'),
    'blank message group': await send(ordered, 'x', { messageGroup: ' ' }),
    'long message group': await send(ordered, 'x', { messageGroup: 'g'.repeat(65) }),
    'delay too long': await send(name('delay-far'), 'x', { delay: 5 * 366 * 24 * 3600 * 1000 }),
    'transaction without a checker': await outcome(() => p.beginTransaction()),
  };
}

async function refusedConsumer() {
  const topic = name('empty');
  const c = await consumer(topic);
  // a client whose settings the server refuses waits for them for ever
  const receive = (...args) => Promise.race([
    outcome(async () => (await consumer(...args)).receive(1, INVISIBLE)), pause(40000).then(() => 'no answer'),
  ]);
  return {
    'nothing there': (await c.receive(16, INVISIBLE)).length,
    'invisible too short': await outcome(() => c.receive(16, 1000)),
    'invisible too long': await outcome(() => c.receive(16, 13 * 3600 * 1000)),
    'no messages wanted': await outcome(() => c.receive(0, INVISIBLE)),
    'broken SQL': await receive(topic, new FilterExpression('a >', FilterType.SQL), name('empty-sql')),
    'unknown topic': await receive(name('nowhere'), undefined, topic),
    'illegal group': await receive(topic, undefined, 'no group!'),
    'unknown group': await receive(topic, undefined, name('nobody')),
  };
}

const scenarios = {
  normal, async: sendAsync, tags, sql, redelivery, expired, fifo, delay, recall, transaction, push, 'push-fifo': pushFifo, refused,
  'refused-consumer': refusedConsumer,
};

async function play(scenario, run) {
  let result;
  try {
    result = await Promise.race([ run(), pause(2 * PATIENCE).then(() => { throw new Error('not in time'); }) ]);
  } catch (e) {
    result = { failed: `${e.constructor.name}: ${e.message}` };
  }
  print(JSON.stringify({ scenario, result }));
}

process.on('unhandledRejection', e => log(e));
Promise.all(Object.entries(scenarios).map(([ scenario, run ]) => play(scenario, run))).then(() => process.exit(0));
