"use strict";
// Deletion, and awkward stream names in success and in every error (2.6, 2.7, 5.3).

const assert = require("node:assert/strict");
const { describe, test } = require("node:test");
const { randomUUID } = require("node:crypto");
const {
  AppendConsistencyViolationError,
  NO_STREAM,
  STREAM_EXISTS,
  STREAM_STATE,
  StreamDeletedError,
  StreamNotFoundError,
  StreamTombstonedError,
  WrongExpectedVersionError,
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
  ids,
  link,
  makeLive,
  makeSoftDeleted,
  makeTombstoned,
  read,
  refusal,
  revisions,
  sameName,
  subscribed,
  versionOf,
} = require("./support");

const client = connect();
const check = (streamName, expectedState) => ({ type: STREAM_STATE, streamName, expectedState });

/** "Does not exist", as a deletion tells it: nothing, or -1. */
const isAbsent = (actual) => actual === NO_STREAM || actual === -1n;

for (const expectedRevision of [2n, ANY]) {
  test(`a live stream is soft-deleted expecting ${expectedRevision}, and comes back behind its old end`, async () => {
    const stream = await makeLive(client, 3);
    const { position } = await client.deleteStream(stream, { expectedRevision });
    assert.ok(position.commit > 0n && position.commit === position.prepare);
    await refusal(() => read(client, stream), StreamNotFoundError);
    const batch = events(2);
    await client.appendToStream(stream, batch, { streamState: NO_STREAM });
    const stored = await read(client, stream);
    assert.deepEqual(ids(stored), batch.map((e) => e.id));
    assert.deepEqual(revisions(stored), [3n, 4n]);
    assert.deepEqual((await client.getStreamMetadata(stream)).metadata, { truncateBefore: 3 });
  });

  test(`a live stream is tombstoned expecting ${expectedRevision}, for ever`, async () => {
    const stream = await makeLive(client, 3);
    const { position } = await client.tombstoneStream(stream, { expectedRevision });
    assert.ok(position.commit > 0n);
    await refusal(() => read(client, stream), StreamDeletedError);
    await refusal(() => client.appendToStream(stream, event()), StreamDeletedError);
    await refusal(() => client.deleteStream(stream), StreamDeletedError);
    await refusal(() => client.tombstoneStream(stream), StreamDeletedError);
    await refusal(() => client.setStreamMetadata(stream, { too: "late" }), StreamDeletedError);
    await refusal(() => client.getStreamMetadata(stream), StreamDeletedError);
  });
}

for (const operation of ["deleteStream", "tombstoneStream"]) {
  test(`${operation} with a wrong expectation changes nothing and says what is`, async () => {
    const stream = await makeLive(client, 3);
    for (const [expectedRevision, told] of [[1n, 1n], [9n, 9n], [NO_STREAM, -1n]]) {
      const error = await refusal(() => client[operation](stream, { expectedRevision }), WrongExpectedVersionError);
      assert.deepEqual([error.streamName, error.expectedState, error.actualState], [stream, told, 2n]);
    }
    assert.equal(await versionOf(client, stream), 2n);
  });
}

test("a stream that never existed cannot be soft-deleted, but can be tombstoned", async () => {
  for (const expectedRevision of [ANY, NO_STREAM, 0n]) {
    const error = await refusal(() => client.deleteStream(fresh(), { expectedRevision }), WrongExpectedVersionError);
    assert.ok(isAbsent(error.actualState), `actual ${error.actualState}`);
  }
  for (const expectedRevision of [ANY, NO_STREAM]) {
    const stream = fresh();
    await client.tombstoneStream(stream, { expectedRevision });
    await refusal(() => read(client, stream), StreamDeletedError);
  }
  await refusal(() => client.tombstoneStream(fresh(), { expectedRevision: 0n }), WrongExpectedVersionError);
});

test("soft-deleting twice is accepted, and a soft-deleted stream can be tombstoned", async () => {
  const stream = await makeSoftDeleted(client);
  await client.deleteStream(stream);
  await client.tombstoneStream(stream);
  await refusal(() => read(client, stream), StreamDeletedError);
});

test("a soft delete is one metadata event, and a tombstone an event in $all", async () => {
  const from = await endOfAll(client);
  const stream = await makeLive(client, 1);
  await client.setStreamMetadata(stream, { maxCount: 9 });
  await client.deleteStream(stream);
  const [meta] = await read(client, `$$${stream}`);
  assert.deepEqual([meta.event.type, meta.event.revision], ["$metadata", 1n]);
  await client.tombstoneStream(stream);
  const seen = await collect(client.readAll({ fromPosition: from, filter: streamNameFilter({ prefixes: [stream] }) }));
  assert.deepEqual(seen.map((e) => e.event.type), ["Happened", "$streamDeleted"]);
  assert.equal(seen[1].event.revision, MAX_REVISION);
});

// --- names -------------------------------------------------------------------------------

const NAMES = {
  slashes: (id) => `orders/2026/07/${id}`,
  "at signs": (id) => `a@b@${id}`,
  spaces: (id) => ` two  spaces and a tail ${id} `,
  umlauts: (id) => `größe-${id}`,
  "other alphabets": (id) => `заказ-注文-${id}`,
  emoji: (id) => `🚀-${id}`,
  "percent and plus": (id) => `100%25+${id}&x=y`,
  "a long name": (id) => "x".repeat(400) + id,
};

for (const [kind, make] of Object.entries(NAMES)) {
  describe(`a name with ${kind}`, () => {
    const named = () => make(randomUUID());

    test("works in success", async () => {
      const [name, from] = [named(), await endOfAll(client)];
      await client.appendToStream(name, events(2), { streamState: NO_STREAM });
      await client.multiStreamAppend([{ streamName: name, events: events(1), expectedState: 1n }]);
      const result = await client.appendRecords([{ streamName: name, record: event() }], [check(name, 2n)]);
      assert.deepEqual(result.responses, [{ streamName: name, revision: 3n }]);
      const stored = await read(client, name);
      assert.deepEqual(stored.map((e) => e.event.streamId), Array(4).fill(name));
      const seen = await collect(client.readAll({ fromPosition: from, filter: streamNameFilter({ prefixes: [name] }) }));
      assert.deepEqual(ids(seen), ids(stored));
      await client.appendToStream(`${name}-links`, link(1, name));
      const [resolved] = await read(client, `${name}-links`, { resolveLinkTos: true });
      assert.deepEqual([resolved.event.streamId, resolved.event.revision], [name, 1n]);
      await subscribed(client.subscribeToStream(name), async (subscriber) => {
        assert.deepEqual(ids(await subscriber.untilEvents(4)), ids(stored));
      });
      await client.setStreamMetadata(name, { maxCount: 1 });
      assert.deepEqual((await client.getStreamMetadata(name)).metadata, { maxCount: 1 });
      await client.deleteStream(name, { expectedRevision: 3n });
      await client.appendToStream(name, event());
      await client.tombstoneStream(name, { expectedRevision: 4n });
    });

    test("works in conflicts", async () => {
      const name = await makeLive(client, 2, named());
      const append = await refusal(
        () => client.appendToStream(name, event(), { streamState: 7n }),
        WrongExpectedVersionError
      );
      assert.deepEqual([append.streamName, append.actualState], [name, 1n]);
      const session = await refusal(
        () => client.multiStreamAppend([{ streamName: name, events: events(1), expectedState: 7n }]),
        WrongExpectedVersionError
      );
      assert.deepEqual([session.streamName, session.actualState], [name, 1n]);
      for (const operation of ["deleteStream", "tombstoneStream"]) {
        const error = await refusal(() => client[operation](name, { expectedRevision: 7n }), WrongExpectedVersionError);
        assert.ok(sameName(error.streamName, name), `told ${error.streamName}`);
        assert.deepEqual([error.expectedState, error.actualState], [7n, 1n]);
      }
      const records = await refusal(
        () => client.appendRecords([{ streamName: name, record: event() }], [check(name, 7n)]),
        AppendConsistencyViolationError
      );
      assert.equal(records.violations[0].streamName, name);
    });

    test("works in errors about missing and soft-deleted streams", async () => {
      const [missing, deleted] = [named(), await makeSoftDeleted(client, 2, named())];
      for (const name of [missing, deleted]) {
        assert.equal((await refusal(() => read(client, name), StreamNotFoundError)).streamName, name);
      }
      const absent = await refusal(() => client.deleteStream(missing), WrongExpectedVersionError);
      assert.ok(sameName(absent.streamName, missing) && isAbsent(absent.actualState));
      const exists = await refusal(
        () => client.appendToStream(deleted, event(), { streamState: STREAM_EXISTS }),
        StreamDeletedError
      );
      assert.equal(exists.streamName, deleted);
    });

    test("works in errors about tombstoned streams", async () => {
      const name = await makeTombstoned(client, 2, named());
      assert.equal((await refusal(() => read(client, name), StreamDeletedError)).streamName, name);
      assert.equal((await refusal(() => client.appendToStream(name, event()), StreamDeletedError)).streamName, name);
      for (const operation of ["deleteStream", "tombstoneStream"]) {
        const error = await refusal(() => client[operation](name), StreamDeletedError);
        assert.ok(sameName(error.streamName, name), `told ${error.streamName}`);
      }
      const session = await refusal(
        () => client.multiStreamAppend([{ streamName: name, events: events(1), expectedState: ANY }]),
        StreamTombstonedError
      );
      assert.equal(session.stream, name);
      const subscriber = new Subscriber(client.subscribeToStream(name));
      const error = await subscriber.untilEnded();
      assert.ok(error instanceof StreamDeletedError, `ended with ${error}`);
      assert.ok(sameName(error.streamName, name), `told ${error.streamName}`);
    });
  });
}
