"use strict";
// Three nodes: any node answers, and the death of the leader loses and repeats nothing.
// Runs only with ANNALS_CLUSTER_URL; killing needs the harness's commands as well. Not
// named *.test.js: it must not run beside scenarios that a dying leader would disturb.

const assert = require("node:assert/strict");
const { describe, test } = require("node:test");
const {
  BACKWARDS,
  END,
  KurrentDBClient,
  NO_STREAM,
  NotLeaderError,
  START,
  STREAM_STATE,
  persistentSubscriptionToStreamSettingsFromDefaults,
} = require("@kurrent/kurrentdb-client");
const {
  ANY,
  clusterHosts,
  clusterUrl,
  connect,
  directUrl,
  event,
  events,
  fresh,
  freshWord,
  ids,
  leaderAndFollowers,
  makeLive,
  range,
  read,
  refusal,
  retrying,
  revisions,
  runHarness,
  sleep,
  versionOf,
} = require("./support");

const canKill = process.env.ANNALS_KILL_LEADER_CMD && process.env.ANNALS_RESTART_CMD;
const skip = clusterUrl ? false : "ANNALS_CLUSTER_URL is not set";
const skipKill = skip || (canKill ? false : "ANNALS_KILL_LEADER_CMD and ANNALS_RESTART_CMD are not set");

/** Repeats a check until it holds: for reads that may lag. */
async function eventually(check, timeout = 30_000) {
  const deadline = Date.now() + timeout;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(50);
    }
  }
}

describe("a cluster", { skip, concurrency: false }, () => {
  test("any node serves a consumer group", async () => {
    const hosts = clusterHosts();
    await leaderAndFollowers();
    const clients = hosts.map((host) => connect(directUrl(host)));
    const [stream, group] = [await makeLive(clients[0], 30), freshWord()];
    const settings = persistentSubscriptionToStreamSettingsFromDefaults({
      startFrom: START,
      checkPointAfter: 200,
      checkPointLowerBound: 1,
    });
    await clients[1].createPersistentSubscriptionToStream(stream, group, settings);
    const seen = hosts.map(() => []);
    const subscriptions = clients.map((client, n) => {
      const subscription = client.subscribeToPersistentSubscriptionToStream(stream, group, { bufferSize: 3 });
      subscription.on("data", async (e) => {
        seen[n].push(e.event.revision);
        await sleep(20);
        await subscription.ack(e);
      });
      return subscription;
    });
    await eventually(async () => {
      const info = await clients[2].getPersistentSubscriptionToStreamInfo(stream, group);
      assert.equal(info.stats.lastCheckpointedEventRevision, 29n);
    });
    assert.deepEqual([...new Set(seen.flat())].sort((a, b) => Number(a - b)), range(0, 30));
    assert.ok(seen.every((one) => one.length > 0), `${seen.map((one) => one.length)}`);
    await Promise.all(subscriptions.map((subscription) => subscription.unsubscribe()));
  });

  test("is discovered, written and read", async () => {
    const cluster = connect(clusterUrl);
    const stream = await makeLive(cluster, 3);
    assert.deepEqual(revisions(await read(cluster, stream)), range(0, 3));
  });

  test("takes writes on any node, and the leader shows them at once", async () => {
    // This client demands the leader only when told to, so followers forward.
    const cluster = connect(clusterUrl);
    const { followers } = await leaderAndFollowers();
    for (const follower of followers) {
      const direct = connect(directUrl(follower));
      const [stream, batch] = [fresh(), events(3)];
      const first = await direct.appendToStream(stream, batch, { streamState: NO_STREAM });
      assert.equal(first.nextExpectedRevision, 2n);
      assert.deepEqual(ids(await read(cluster, stream)), batch.map((e) => e.id));
      assert.deepEqual(await direct.appendToStream(stream, batch, { streamState: NO_STREAM }), first);
      await eventually(async () => assert.deepEqual(ids(await read(direct, stream)), batch.map((e) => e.id)));
      await direct.deleteStream(stream, { expectedRevision: 2n });
      assert.equal(await versionOf(cluster, stream), NO_STREAM);
      await direct.tombstoneStream(stream);
    }
  });

  test("forwards v2 writes or says where the leader is", async () => {
    const { leader, followers } = await leaderAndFollowers();
    for (const way of ["multiStreamAppend", "appendRecords"]) {
      const direct = connect(directUrl(followers[0])); // it moves to the leader when told
      const [stream, e] = [fresh(), event()];
      const append = () =>
        way === "appendRecords"
          ? direct.appendRecords([{ streamName: stream, record: e }], [
              { type: STREAM_STATE, streamName: stream, expectedState: NO_STREAM },
            ])
          : direct.multiStreamAppend([{ streamName: stream, events: [e], expectedState: NO_STREAM }]);
      try {
        await append();
      } catch (error) {
        assert.ok(error instanceof NotLeaderError, `${way}: ${error}`);
        assert.equal(`${error.leader.address}:${error.leader.port}`, leader);
        await append();
      }
      assert.deepEqual(ids(await read(connect(clusterUrl), stream)), [e.id]);
    }
  });

  test("tells a client that demands the leader where it is, and the client goes there", async () => {
    const { leader, followers } = await leaderAndFollowers();
    const direct = connect(directUrl(followers[0]));
    const [stream, e] = [fresh(), event()];
    const append = () => direct.appendToStream(stream, e, { streamState: NO_STREAM, requiresLeader: true });
    const error = await refusal(append, NotLeaderError);
    assert.equal(`${error.leader.address}:${error.leader.port}`, leader);
    assert.equal((await append()).nextExpectedRevision, 0n);
    const reading = await refusal(() => read(direct, stream, { requiresLeader: true }), NotLeaderError);
    assert.equal(`${reading.leader.address}:${reading.leader.port}`, leader);
  });

  test("serves reads, indexes and subscriptions on every node", async () => {
    const cluster = connect(clusterUrl);
    const word = freshWord();
    const [stream, batch] = [`${word}-1`, events(30)];
    await cluster.appendToStream(stream, batch, { streamState: NO_STREAM });
    const wanted = batch.map((e) => e.id);
    for (const host of clusterHosts()) {
      const direct = connect(directUrl(host));
      await eventually(async () => assert.deepEqual(ids(await read(direct, stream)), wanted));
      assert.deepEqual(ids(await read(direct, `$ce-${word}`, { resolveLinkTos: true })), wanted);
      const subscription = direct.subscribeToStream(stream);
      const seen = [];
      for await (const e of subscription) {
        seen.push(e.event.id);
        if (seen.length === 30) break;
      }
      assert.deepEqual(seen, wanted);
    }
  });
});

describe("the death of the leader", { skip: skipKill, concurrency: false }, () => {
  test("loses nothing and repeats nothing", async () => {
    const stream = fresh();
    await leaderAndFollowers();
    const cluster = connect(clusterUrl);
    const written = [];
    let [stopWriting, stopReading, failure] = [false, false, undefined];

    const writer = (async () => {
      while (!stopWriting) {
        const batch = events(3);
        const streamState = written.length ? BigInt(written.length - 1) : NO_STREAM;
        await retrying(() => cluster.appendToStream(stream, batch, { streamState, deadline: 5_000 }));
        written.push(...batch.map((e) => e.id));
      }
    })().catch((error) => (failure = error));

    const seen = [];
    const reader = (async () => {
      while (!stopReading) {
        const client = KurrentDBClient.connectionString(clusterUrl);
        const fromRevision = seen.length ? seen.at(-1).revision : START;
        const subscription = client.subscribeToStream(stream, { fromRevision });
        const stopper = setInterval(() => stopReading && subscription.destroy(), 100);
        try {
          for await (const e of subscription) seen.push({ id: e.event.id, revision: e.event.revision });
        } catch {
          // The node went away: subscribe again behind what was seen.
        } finally {
          clearInterval(stopper);
          await client.dispose();
        }
        await sleep(100);
      }
    })();

    const untilWritten = (count) =>
      eventually(async () => {
        if (failure) throw failure;
        assert.ok(written.length >= count, `${written.length} of ${count} written`);
      }, 60_000);

    try {
      await untilWritten(60);
      let mark = written.length;
      runHarness("ANNALS_KILL_LEADER_CMD");
      await untilWritten(mark + 60);
      runHarness("ANNALS_RESTART_CMD");
      mark = written.length;
      await untilWritten(mark + 60);
    } finally {
      stopWriting = true;
      await writer;
    }
    try {
      assert.equal(failure, undefined);
      await eventually(async () => assert.ok(seen.length >= written.length, `saw ${seen.length} of ${written.length}`));
      assert.deepEqual(seen.map((e) => e.id), written);
      assert.deepEqual(seen.map((e) => e.revision), range(0, written.length));
    } finally {
      stopReading = true;
      await reader;
      runHarness("ANNALS_RESTART_CMD"); // harmless when nothing is dead
    }
    await leaderAndFollowers(60_000);
    const after = connect(clusterUrl);
    assert.deepEqual(ids(await retrying(() => read(after, stream))), written);
    for (const host of clusterHosts()) {
      const direct = connect(directUrl(host));
      await eventually(async () => assert.deepEqual(ids(await read(direct, stream)), written));
    }
    const [last] = await read(after, stream, { direction: BACKWARDS, fromRevision: END, maxCount: 1 });
    assert.equal(last.event.revision, BigInt(written.length - 1));
  });

  test("is survived by one client that only retries", async () => {
    await leaderAndFollowers(60_000);
    const cluster = connect(clusterUrl);
    const [stream, batch] = [fresh(), events(2)];
    const first = await cluster.appendToStream(stream, batch, { streamState: ANY });
    runHarness("ANNALS_KILL_LEADER_CMD");
    try {
      const again = await retrying(() => cluster.appendToStream(stream, batch, { streamState: ANY }));
      assert.deepEqual(again, first, "the new leader knows the ids");
      assert.deepEqual(ids(await retrying(() => read(cluster, stream))), batch.map((e) => e.id));
    } finally {
      runHarness("ANNALS_RESTART_CMD");
      await leaderAndFollowers(60_000);
    }
  });
});
