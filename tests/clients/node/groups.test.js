"use strict";
// Consumer groups, as this client defines them: with the older fields (6.2).

const assert = require("node:assert/strict");
const { test } = require("node:test");
const {
  END,
  PARK,
  PersistentSubscriptionDoesNotExistError,
  PersistentSubscriptionExistsError,
  PersistentSubscriptionDroppedError,
  PersistentSubscriptionMaximumSubscribersReachedError,
  RETRY,
  START,
  eventTypeFilter,
  persistentSubscriptionToAllSettingsFromDefaults,
  persistentSubscriptionToStreamSettingsFromDefaults,
} = require("@kurrent/kurrentdb-client");
const { ANY, connect, event, events, fresh, freshWord, makeLive, range, revisions, sleep, subscribed } = require("./support");

const client = connect();
const settings = (more = {}) =>
  persistentSubscriptionToStreamSettingsFromDefaults({
    startFrom: START,
    checkPointAfter: 200,
    checkPointLowerBound: 1,
    ...more,
  });
const info = (stream, group) => client.getPersistentSubscriptionToStreamInfo(stream, group);

async function until(what, describe, timeout = 20_000) {
  const deadline = Date.now() + timeout;
  while (!(await what())) {
    assert.ok(Date.now() < deadline, `waited for ${describe}`);
    await sleep(30);
  }
}

/** Consumes; `judge` answers for each event. */
async function consuming(stream, group, judge, body) {
  const subscription = client.subscribeToPersistentSubscriptionToStream(stream, group);
  subscription.on("data", (e) => judge(subscription, e)?.catch?.(() => {}));
  return subscribed(subscription, body);
}
const ack = (subscription, e) => subscription.ack(e);

test("every event comes once, and what was acked does not come again", async () => {
  const [stream, group] = [await makeLive(client, 30), freshWord()];
  await client.createPersistentSubscriptionToStream(stream, group, settings());
  await consuming(stream, group, ack, async (subscriber) => {
    assert.deepEqual(revisions(await subscriber.untilEvents(30)), range(0, 30));
    assert.ok(subscriber.events.every((e) => e.retryCount === 0));
    await until(async () => (await info(stream, group)).stats.lastCheckpointedEventRevision === 29n, "the checkpoint");
  });
  await client.appendToStream(stream, events(1), { streamState: ANY });
  await consuming(stream, group, ack, async (subscriber) => {
    assert.deepEqual(revisions(await subscriber.untilEvents(1)), range(30, 31));
  });
});

test("a group from the end gets what is new", async () => {
  const [stream, group] = [await makeLive(client, 5), freshWord()];
  await client.createPersistentSubscriptionToStream(stream, group, settings({ startFrom: END }));
  await client.appendToStream(stream, events(2), { streamState: ANY });
  await consuming(stream, group, ack, async (subscriber) => {
    assert.deepEqual(revisions(await subscriber.untilEvents(2)), range(5, 7));
  });
});

test("a failed event is retried, parked and replayed", async () => {
  const [stream, group] = [await makeLive(client, 2), freshWord()];
  await client.createPersistentSubscriptionToStream(stream, group, settings({ maxRetryCount: 1 }));
  const judge = (subscription, e) =>
    e.event.revision === 0n ? subscription.nack(RETRY, "no", e) : subscription.nack(PARK, "never", e);
  await consuming(stream, group, judge, async (subscriber) => {
    await until(async () => (await info(stream, group)).stats.parkedMessageCount === 2n, "two parked events");
    assert.deepEqual(subscriber.events.filter((e) => e.event.revision === 0n).map((e) => e.retryCount), [0, 1]);
  });
  await client.replayParkedMessagesToStream(stream, group);
  await consuming(stream, group, ack, async (subscriber) => {
    assert.deepEqual(revisions(await subscriber.untilEvents(2)).sort(), range(0, 2));
    await until(async () => (await info(stream, group)).stats.parkedMessageCount === 0n, "none parked");
  });
});

test("a group on everything gets what its filter passes", async () => {
  const [type, group] = [freshWord(), freshWord()];
  const all = persistentSubscriptionToAllSettingsFromDefaults({ startFrom: END });
  await client.createPersistentSubscriptionToAll(group, all, { filter: eventTypeFilter({ prefixes: [type] }) });
  await client.appendToStream(fresh(), [event(type), event("Other"), event(type)], { streamState: ANY });
  const subscription = client.subscribeToPersistentSubscriptionToAll(group);
  subscription.on("data", (e) => subscription.ack(e));
  await subscribed(subscription, async (subscriber) => {
    const seen = await subscriber.untilEvents(2);
    assert.deepEqual(seen.map((e) => e.event.type), [type, type]);
  });
  await client.deletePersistentSubscriptionToAll(group);
});

test("what is wrong with a group is told", async () => {
  const [stream, group] = [await makeLive(client, 1), freshWord()];
  await assert.rejects(info(stream, group), PersistentSubscriptionDoesNotExistError);
  await client.createPersistentSubscriptionToStream(stream, group, settings({ maxSubscriberCount: 1 }));
  await assert.rejects(
    client.createPersistentSubscriptionToStream(stream, group, settings()),
    PersistentSubscriptionExistsError,
  );
  await consuming(stream, group, ack, async (first) => {
    await first.untilEvents(1);
    const second = client.subscribeToPersistentSubscriptionToStream(stream, group);
    const error = await new Promise((refused) => second.on("error", refused));
    assert.ok(error instanceof PersistentSubscriptionMaximumSubscribersReachedError, error);
    await client.deletePersistentSubscriptionToStream(stream, group);
    assert.ok((await first.untilEnded()) instanceof PersistentSubscriptionDroppedError, first.error);
  });
  const listed = await client.listAllPersistentSubscriptions();
  assert.ok(listed.every((one) => one.groupName !== group));
});
