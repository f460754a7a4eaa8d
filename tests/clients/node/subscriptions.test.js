"use strict";
// Catch-up subscriptions: nothing missed, nothing repeated, in order (3.2, 3.5, 3.6).

const assert = require("node:assert/strict");
const { test } = require("node:test");
const {
  END,
  NO_STREAM,
  START,
  StreamDeletedError,
  eventTypeFilter,
  excludeSystemEvents,
  streamNameFilter,
} = require("@kurrent/kurrentdb-client");
const {
  ANY,
  MAX_REVISION,
  Subscriber,
  collect,
  connect,
  endOfAll,
  event,
  events,
  fresh,
  freshWord,
  ids,
  makeLive,
  makeSoftDeleted,
  makeTombstoned,
  range,
  revisions,
  sleep,
  subscribed,
} = require("./support");

const client = connect();
const QUIET_MS = 700;
const append = async (stream, count = 1) => {
  const batch = events(count);
  await client.appendToStream(stream, batch, { streamState: ANY });
  return batch.map((e) => e.id);
};

test("from the start everything comes, then caught up, then what is new", async () => {
  const stream = await makeLive(client, 100);
  await subscribed(client.subscribeToStream(stream, { fromRevision: START }), async (subscriber) => {
    const caughtUp = await subscriber.untilCaughtUp();
    assert.equal(caughtUp.revision, 99n);
    assert.equal(caughtUp.after, 100);
    assert.ok(caughtUp.date instanceof Date);
    await append(stream, 3);
    assert.deepEqual(revisions(await subscriber.untilEvents(103)), range(0, 103));
  });
});

for (const [name, options, wanted] of [
  ["the middle", { fromRevision: 6n }, range(7, 11)],
  ["revision zero", { fromRevision: 0n }, range(1, 11)],
  ["the end", { fromRevision: END }, range(10, 11)],
]) {
  test(`from ${name} what is behind it comes`, async () => {
    const stream = await makeLive(client, 10);
    await subscribed(client.subscribeToStream(stream, options), async (subscriber) => {
      await subscriber.untilCaughtUp();
      await append(stream);
      assert.deepEqual(revisions(await subscriber.untilEvents(wanted.length)), wanted);
    });
  });
}

test("from the future events up to there are passed over", async () => {
  const stream = await makeLive(client, 2);
  await subscribed(client.subscribeToStream(stream, { fromRevision: 4n }), async (subscriber) => {
    await subscriber.untilCaughtUp();
    await append(stream, 6);
    assert.deepEqual(revisions(await subscriber.untilEvents(3)), range(5, 8));
  });
});

test("a missing stream is waited for, and a soft-deleted one looks empty", async () => {
  for (const [stream, first] of [[fresh(), 0], [await makeSoftDeleted(client, 3), 3]]) {
    await subscribed(client.subscribeToStream(stream), async (subscriber) => {
      await subscriber.untilCaughtUp();
      await sleep(QUIET_MS);
      assert.deepEqual([subscriber.ended, subscriber.events.length], [false, 0]);
      await append(stream, 2);
      assert.deepEqual(revisions(await subscriber.untilEvents(2)), range(first, first + 2));
    });
  }
});

test("a subscription lives through a soft delete", async () => {
  const stream = await makeLive(client, 2);
  await subscribed(client.subscribeToStream(stream), async (subscriber) => {
    await subscriber.untilEvents(2);
    await client.deleteStream(stream);
    await append(stream, 2);
    assert.deepEqual(revisions(await subscriber.untilEvents(4)), range(0, 4));
    assert.equal(subscriber.ended, false);
  });
});

test("a tombstone is delivered and ends the subscription", async () => {
  const stream = await makeLive(client, 2);
  const subscriber = new Subscriber(client.subscribeToStream(stream));
  await subscriber.untilCaughtUp();
  await client.tombstoneStream(stream);
  const error = await subscriber.untilEnded();
  assert.ok(error instanceof StreamDeletedError, `ended with ${error}`);
  assert.deepEqual(revisions(subscriber.events), [0n, 1n, MAX_REVISION]);
  assert.equal(subscriber.events[2].event.type, "$streamDeleted");
});

test("subscribing to a tombstoned stream fails", async () => {
  const subscriber = new Subscriber(client.subscribeToStream(await makeTombstoned(client)));
  assert.ok((await subscriber.untilEnded()) instanceof StreamDeletedError);
});

test("a subscription has an id and ends when asked, without an error", async () => {
  const subscription = client.subscribeToStream(await makeLive(client));
  const subscriber = new Subscriber(subscription);
  await subscriber.untilCaughtUp();
  assert.match(subscription.id, /^[0-9a-f-]{36}$/i);
  await subscription.unsubscribe();
  await sleep(200);
  assert.equal(subscriber.error, undefined);
});

test("nothing is lost or repeated where catching up turns into live", async () => {
  const stream = fresh();
  const written = [];
  let stop = false;
  const writer = (async () => {
    while (!stop && written.length < 3000) written.push(...(await append(stream, 10)));
  })();
  const subscriptions = [];
  for (let n = 0; n < 5; n++) {
    await sleep(50);
    subscriptions.push(client.subscribeToStream(stream));
  }
  const subscribers = subscriptions.map((s) => new Subscriber(s));
  await sleep(300);
  stop = true;
  await writer;
  try {
    for (const subscriber of subscribers) assert.deepEqual(ids(await subscriber.untilEvents(written.length)), written);
  } finally {
    await Promise.all(subscriptions.map((s) => s.unsubscribe()));
  }
});

test("$all from the start begins with the first event there is", async () => {
  await makeLive(client);
  const [first] = await collect(client.readAll({ maxCount: 1 }));
  await subscribed(client.subscribeToAll({ fromPosition: START }), async (subscriber) => {
    const [seen] = await subscriber.untilEvents(1);
    assert.equal(seen.event.id, first.event.id);
  });
});

test("$all from a position delivers what is behind it, and from the end only what is new", async () => {
  const from = await endOfAll(client);
  const old = await append(fresh(), 2);
  const filter = excludeSystemEvents();
  await subscribed(client.subscribeToAll({ fromPosition: from, filter }), async (behind) => {
    const caughtUp = await behind.untilCaughtUp();
    assert.ok(caughtUp.position.commit > from.commit);
    await subscribed(client.subscribeToAll({ fromPosition: END }), async (end) => {
      await end.untilCaughtUp();
      const added = await append(fresh(), 3);
      for (const [subscriber, wanted] of [[behind, [...old, ...added]], [end, added]]) {
        await subscriber.until(() => ids(subscriber.events).includes(added[2]), "the new events");
        const mine = new Set([...old, ...added]);
        assert.deepEqual(ids(subscriber.events).filter((id) => mine.has(id)), wanted);
      }
      assert.ok(behind.events.every((e) => e.event.position.commit > from.commit));
    });
  });
});

for (const [name, filterOf] of [
  ["a regex on types", (word) => eventTypeFilter({ regex: `^${word}$` })],
  ["a prefix of types", (word) => eventTypeFilter({ prefixes: [word] })],
  ["a regex on stream names", (word) => streamNameFilter({ regex: `^${word}-` })],
  ["a prefix of stream names", (word) => streamNameFilter({ prefixes: [word] })],
  ["a look-ahead", (word) => eventTypeFilter({ regex: `^(?!(\\$.+$|Noise$))${word}` })],
]) {
  test(`a subscription filtered by ${name} delivers matches from history and live`, async () => {
    const [word, fromPosition, wanted] = [freshWord(), await endOfAll(client), []];
    const mix = async () => {
      for (let n = 0; n < 5; n++) {
        const e = event(word, { n });
        await client.appendToStream(`${word}-1`, e);
        await client.appendToStream(fresh(), event("Noise"));
        wanted.push(e.id);
      }
    };
    await mix();
    await subscribed(client.subscribeToAll({ fromPosition, filter: filterOf(word) }), async (subscriber) => {
      await subscriber.untilCaughtUp();
      assert.deepEqual(ids(subscriber.events), wanted);
      await mix();
      assert.deepEqual(ids(await subscriber.untilEvents(10)), wanted);
    });
  });
}

test("checkpoints come while nothing matches, and are awaited", async () => {
  const fromPosition = await endOfAll(client);
  await append(fresh(), 200);
  const checkpoints = [];
  const filter = eventTypeFilter({
    prefixes: [freshWord()],
    maxSearchWindow: 10,
    checkpointInterval: 2,
    checkpointReached: async (_subscription, position) => {
      await sleep(1);
      checkpoints.push(position.commit);
    },
  });
  await subscribed(client.subscribeToAll({ fromPosition, filter }), async (subscriber) => {
    await subscriber.untilCaughtUp();
    const caughtUp = checkpoints.length;
    assert.ok(caughtUp >= 10, `one every 20 examined events, saw ${caughtUp}`);
    await append(fresh(), 200);
    const deadline = Date.now() + 10_000;
    while (checkpoints.length < caughtUp + 5 && Date.now() < deadline) await sleep(20);
    assert.ok(checkpoints.length >= caughtUp + 5, "checkpoints while live");
    assert.ok(checkpoints.every((p, n) => p > (n ? checkpoints[n - 1] : fromPosition.commit)), "they advance");
    assert.deepEqual(subscriber.events, []);
  });
});

test("what metadata hides does not reach a subscription", async () => {
  const stream = await makeLive(client, 10);
  await client.setStreamMetadata(stream, { maxCount: 3 });
  await subscribed(client.subscribeToStream(stream), async (subscriber) => {
    await subscriber.untilCaughtUp();
    assert.deepEqual(revisions(subscriber.events), range(7, 10));
  });
});

test("a slow consumer loses nothing", async () => {
  const stream = fresh();
  await client.appendToStream(stream, event(), { streamState: NO_STREAM });
  const subscription = client.subscribeToStream(stream);
  const written = [];
  const writer = (async () => {
    for (let n = 0; n < 15; n++) {
      const e = event("Large", { pad: "x".repeat(500_000) });
      await client.appendToStream(stream, e);
      written.push(e.id);
    }
  })();
  const seen = [];
  for await (const e of subscription) {
    await sleep(20);
    seen.push(e.event.id);
    if (seen.length === 16) break;
  }
  await writer;
  assert.deepEqual(seen.slice(1), written);
});
