"use strict";
// Links and the built-in indexes that read as streams of links (3.4, 5.2).

const assert = require("node:assert/strict");
const { before, describe, test } = require("node:test");
const {
  BACKWARDS,
  END,
  NO_STREAM,
  STREAMS_STREAM,
  StreamNotFoundError,
} = require("@kurrent/kurrentdb-client");
const {
  ANY,
  connect,
  event,
  events,
  fresh,
  freshWord,
  ids,
  link,
  makeLive,
  range,
  read,
  refusal,
  revisions,
  subscribed,
} = require("./support");

const client = connect();
const text = (record) => Buffer.from(record.data).toString();

test("a link is delivered resolved, with both places, or as it is", async () => {
  const [target, links] = [await makeLive(client, 3), fresh()];
  await client.appendToStream(links, [link(2, target), link(0, target)], { streamState: NO_STREAM });
  const targets = await read(client, target);

  const plain = await read(client, links);
  assert.deepEqual(plain.map((e) => e.event.type), ["$>", "$>"]);
  assert.deepEqual(plain.map((e) => text(e.event)), [`2@${target}`, `0@${target}`]);
  assert.ok(plain.every((e) => e.link === undefined && e.event.isJson === false));

  const resolved = await read(client, links, { resolveLinkTos: true });
  assert.deepEqual(ids(resolved), [targets[2].event.id, targets[0].event.id]);
  resolved.forEach((e, n) => {
    const goal = targets[n === 0 ? 2 : 0].event;
    assert.deepEqual([e.event.streamId, e.event.revision], [target, goal.revision]);
    assert.deepEqual(e.event.position, goal.position);
    assert.deepEqual([e.link.streamId, e.link.revision, e.link.id], [links, BigInt(n), plain[n].event.id]);
    assert.equal(e.commitPosition, plain[n].event.position.commit, "the place of the link counts");
  });
});

test("a link whose target is gone has a link and no event", async () => {
  const [live, deleted, dead, cut] = await Promise.all([1, 2, 3, 4].map(() => makeLive(client, 3)));
  await client.deleteStream(deleted);
  await client.tombstoneStream(dead);
  await client.setStreamMetadata(cut, { truncateBefore: 2 });
  const links = fresh();
  const written = [link(0, deleted), link(0, dead), link(1, cut), link(9, live), link(0, fresh()), link(1, live)];
  await client.appendToStream(links, written, { streamState: NO_STREAM });
  const resolved = await read(client, links, { resolveLinkTos: true });
  assert.deepEqual(resolved.map((e) => e.link.id), written.map((e) => e.id));
  assert.deepEqual(resolved.map((e) => e.event?.streamId), [undefined, undefined, undefined, undefined, undefined, live]);
});

describe("an index", () => {
  const word = freshWord();
  const streams = [`${word}-0`, `${word}-1`, `${word}-2`];
  const order = [];
  const make = () => event(word, {}, { metadata: { $correlationId: word } });
  const append = async (n) => {
    const [stream, e] = [streams[n % 3], make()];
    await client.appendToStream(stream, e);
    order.push({ stream, revision: BigInt(Math.floor(n / 3)), id: e.id });
  };
  before(async () => {
    for (let n = 0; n < 45; n++) await append(n);
  });

  for (const prefix of ["$ce-", "$et-", "$bc-"]) {
    const name = prefix + word;

    test(`${prefix} is a stream of links, resolved or not, in both directions`, async () => {
      const plain = await read(client, name);
      assert.deepEqual(plain.map((e) => text(e.event)), order.map((e) => `${e.revision}@${e.stream}`));
      assert.deepEqual(revisions(plain), range(0, order.length));
      assert.ok(plain.every((e) => e.event.type === "$>" && e.event.streamId === name && e.link === undefined));

      const resolved = await read(client, name, { resolveLinkTos: true });
      assert.deepEqual(
        resolved.map((e) => [e.event.streamId, e.event.revision, e.event.id]),
        order.map((e) => [e.stream, e.revision, e.id])
      );
      assert.deepEqual(resolved.map((e) => e.link.revision), range(0, order.length));
      assert.deepEqual(resolved.map((e) => e.link.id), ids(plain), "a link keeps its id from read to read");

      const backwards = await read(client, name, { resolveLinkTos: true, direction: BACKWARDS, fromRevision: END, maxCount: 3 });
      assert.deepEqual(ids(backwards), order.slice(-3).reverse().map((e) => e.id));
      const middle = await read(client, name, { resolveLinkTos: true, fromRevision: 20n, maxCount: 2 });
      assert.deepEqual(ids(middle), order.slice(20, 22).map((e) => e.id));
    });

    test(`${prefix} can be subscribed to`, async () => {
      const before = order.length;
      await subscribed(client.subscribeToStream(name, { resolveLinkTos: true }), async (all) => {
        await subscribed(client.subscribeToStream(name, { fromRevision: 9n }), async (plain) => {
          await subscribed(client.subscribeToStream(name, { fromRevision: END, resolveLinkTos: true }), async (end) => {
            for (const subscriber of [all, plain, end]) await subscriber.untilCaughtUp();
            for (let n = 0; n < 3; n++) await append(order.length);
            assert.deepEqual(ids(await all.untilEvents(order.length)), order.map((e) => e.id));
            assert.deepEqual(revisions(await plain.untilEvents(order.length - 10)), range(10, order.length));
            assert.ok(plain.events.every((e) => e.event.type === "$>"));
            assert.deepEqual(ids(await end.untilEvents(3)), order.slice(before).map((e) => e.id));
          });
        });
      });
    });

    test(`${prefix} cannot be written or deleted, and one of nothing is missing`, async () => {
      await refusal(() => client.appendToStream(name, event()));
      await refusal(() => client.multiStreamAppend([{ streamName: name, events: events(1), expectedState: ANY }]));
      await refusal(() => client.deleteStream(name));
      await refusal(() => client.tombstoneStream(name));
      assert.equal((await read(client, name)).length, order.length);
      await refusal(() => read(client, prefix + freshWord()), StreamNotFoundError);
    });
  }

  test("$streams links to the first event of each stream", async () => {
    const made = [];
    for (let n = 0; n < 3; n++) made.push(await makeLive(client, 2));
    const newest = await read(client, STREAMS_STREAM, {
      direction: BACKWARDS,
      fromRevision: END,
      maxCount: 200,
      resolveLinkTos: true,
    });
    const mine = newest.filter((e) => made.includes(e.event?.streamId));
    assert.deepEqual(mine.map((e) => [e.event.streamId, e.event.revision]), made.reverse().map((s) => [s, 0n]));
    assert.ok(mine.every((e) => e.link.streamId === STREAMS_STREAM && text(e.link) === `0@${e.event.streamId}`));
  });

  test("the links of a deleted stream stay in its category, without their events", async () => {
    const category = freshWord();
    await makeLive(client, 1, `${category}-kept`);
    await makeLive(client, 1, `${category}-gone`);
    await client.deleteStream(`${category}-gone`);
    const resolved = await read(client, `$ce-${category}`, { resolveLinkTos: true });
    assert.deepEqual(resolved.map((e) => text(e.link)), [`0@${category}-kept`, `0@${category}-gone`]);
    assert.deepEqual(resolved.map((e) => e.event?.streamId), [`${category}-kept`, undefined]);
  });
});
