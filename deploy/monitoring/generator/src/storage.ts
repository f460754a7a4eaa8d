import { CLUSTER, NODE, dashboard, quantile, rate, series } from './panels';

const each = (metric: string) => `${metric}{${NODE}}`;

/** Where the time of an append goes, and how the disks are. */
export const storage = dashboard(
  {
    uid: 'annals-raft-storage',
    title: 'Annals / Raft & storage',
    description: 'Consensus, the log and the state on disk: terms, round trips, syncs, RocksDB, scavenges.',
  },
  [
    {
      title: 'Consensus',
      panels: [
        series({
          title: 'Term',
          description: 'Grows with each election. The same on all nodes but for moments.',
          unit: 'none',
          width: 8,
          queries: [{ expr: each('annals_raft_term'), legend: '{{instance}}' }],
        }),
        series({
          title: 'Elections',
          description: 'Elections for which a node stood. None in a quiet cluster.',
          unit: 'short',
          width: 8,
          queries: [
            { expr: `sum by (instance) (increase(annals_raft_elections_total{${NODE}}[$__rate_interval]))`, legend: '{{instance}}' },
          ],
        }),
        series({
          title: 'Since a quorum answered the leader',
          description: 'Seconds. Above an election timeout the leader has lost its quorum.',
          unit: 's',
          width: 8,
          queries: [{ expr: each('annals_raft_quorum_acked_seconds'), legend: '{{instance}}' }],
        }),
        series({
          title: 'Entries proposed',
          description: 'Entries of the log that were applied, and those whose fate is unknown.',
          unit: 'ops',
          width: 8,
          queries: [
            { expr: rate('annals_raft_proposals_total', ['instance']), legend: '{{instance}} applied' },
            { expr: rate('annals_raft_proposals_failed_total', ['instance']), legend: '{{instance}} unknown' },
          ],
        }),
        series({
          title: 'Entries in flight',
          description: 'Proposed and not applied yet. Growing: the quorum is slower than what comes.',
          unit: 'short',
          width: 8,
          queries: [{ expr: each('annals_raft_proposals_pending'), legend: '{{instance}}' }],
        }),
        series({
          title: 'Appends in one entry',
          description: 'How many appends share an entry and its sync, on average. More under load.',
          unit: 'short',
          width: 8,
          queries: [
            {
              expr: `${rate('annals_raft_entry_commands_sum', ['instance'])} / (${rate('annals_raft_entry_commands_count', ['instance'])} > 0)`,
              legend: '{{instance}}',
            },
          ],
        }),
        series({
          title: 'Commit',
          description: 'From proposing an entry to its outcome: the sync of a quorum, the network, apply.',
          unit: 's',
          width: 8,
          queries: [
            { expr: quantile(0.5, 'annals_raft_commit_duration_seconds', []), legend: 'p50' },
            { expr: quantile(0.99, 'annals_raft_commit_duration_seconds', []), legend: 'p99' },
          ],
        }),
        series({
          title: 'Round trip to peers (p99)',
          description: 'From sending entries to a peer to its answer, its sync included.',
          unit: 's',
          width: 8,
          queries: [{ expr: quantile(0.99, 'annals_raft_peer_rtt_seconds', ['peer']), legend: 'node {{peer}}' }],
        }),
        series({
          title: 'Entries a peer lacks',
          description: 'Entries of the log that a peer has yet to acknowledge.',
          unit: 'short',
          width: 8,
          queries: [{ expr: `peer:annals_raft_lag_entries:max{${CLUSTER}}`, legend: 'node {{peer}}' }],
        }),
        series({
          title: 'Calls to peers that failed',
          description: 'A peer that is down or cannot be reached.',
          unit: 'ops',
          width: 8,
          queries: [
            {
              expr: `${rate('annals_raft_peer_send_failures_total', ['instance', 'peer'])} or sum by (instance) (annals_raft_is_leader{${NODE}}) * 0`,
              legend: '{{instance}} to node {{peer}}',
            },
          ],
        }),
        series({
          title: 'Transfers to peers far behind',
          description: 'Of events to a peer that the log does not reach back to. A failed one is tried again.',
          unit: 'short',
          width: 8,
          queries: [
            {
              expr: `sum by (peer, result) (increase(annals_raft_catch_ups_total{${NODE}}[$__rate_interval])) or vector(0)`,
              legend: 'node {{peer}} {{result}}',
            },
          ],
        }),
        series({
          title: 'Entries kept in the log',
          description: 'From the last one purged to the newest. Bounded by log_keep_entries and log_keep_bytes, and by peers that catch up.',
          unit: 'short',
          width: 8,
          queries: [{ expr: `annals_raft_last_log_index{${NODE}} - annals_raft_purged_index{${NODE}}`, legend: '{{instance}}' }],
        }),
      ],
    },
    {
      title: 'Log and state',
      panels: [
        series({
          title: 'Synced writes of the log',
          description: 'Every append waits for a majority of these. Above 100 ms the disk is too slow.',
          unit: 's',
          width: 8,
          queries: [
            { expr: quantile(0.5, 'annals_log_fsync_duration_seconds', ['instance']), legend: '{{instance}} p50' },
            { expr: quantile(0.99, 'annals_log_fsync_duration_seconds', ['instance']), legend: '{{instance}} p99' },
          ],
        }),
        series({
          title: 'Entries durable in the log (p99)',
          description: 'From the arrival of an entry to its being durable, waiting included.',
          unit: 's',
          width: 8,
          queries: [{ expr: quantile(0.99, 'annals_log_append_duration_seconds', ['instance']), legend: '{{instance}}' }],
        }),
        series({
          title: 'Written to the log',
          description: 'Bytes of entries.',
          unit: 'Bps',
          width: 8,
          queries: [{ expr: rate('annals_log_bytes_total', ['instance']), legend: '{{instance}}' }],
        }),
        series({
          title: 'Apply (p99)',
          description: 'Seconds to apply one entry to the state.',
          unit: 's',
          width: 8,
          queries: [{ expr: quantile(0.99, 'annals_raft_apply_duration_seconds', ['instance']), legend: '{{instance}}' }],
        }),
        series({
          title: 'Committed and not applied',
          description: 'Entries. More than a few: this node shows an old state to local reads.',
          unit: 'short',
          width: 8,
          queries: [{ expr: `annals_raft_commit_index{${NODE}} - annals_raft_applied_index{${NODE}}`, legend: '{{instance}}' }],
        }),
        series({
          title: 'Applied and not flushed',
          description: 'Entries that would be applied again after a crash: what makes a restart slow.',
          unit: 'short',
          width: 8,
          queries: [{ expr: `annals_raft_applied_index{${NODE}} - annals_raft_durable_index{${NODE}}`, legend: '{{instance}}' }],
        }),
        series({
          title: 'Events in the state',
          description: 'The position of the newest event on each node.',
          unit: 'short',
          width: 8,
          queries: [{ expr: each('annals_position'), legend: '{{instance}}' }],
        }),
        series({
          title: 'Damage found',
          description: 'Stored data that is not what was written, and errors of RocksDB in the background. Anything but 0 is an alarm.',
          unit: 'none',
          width: 8,
          queries: [
            { expr: each('annals_checksum_failures_total'), legend: '{{instance}} checksums' },
            { expr: each('annals_rocksdb_background_errors'), legend: '{{instance}} background' },
          ],
        }),
        series({
          title: 'Disk free',
          description: 'Bytes that the process may still write. Below disk_reserve_bytes appends are refused.',
          unit: 'bytes',
          width: 8,
          queries: [{ expr: each('annals_disk_free_bytes'), legend: '{{instance}}' }],
        }),
      ],
    },
    {
      title: 'RocksDB',
      panels: [
        series({
          title: 'Files, by column family',
          description: 'Bytes of the state, all chosen nodes together.',
          unit: 'bytes',
          width: 8,
          stacked: true,
          queries: [{ expr: `sum by (cf) (annals_rocksdb_sst_bytes{${NODE}})`, legend: '{{cf}}' }],
        }),
        series({
          title: 'Not yet in files',
          description: 'Bytes of the state in memory.',
          unit: 'bytes',
          width: 8,
          queries: [{ expr: `sum by (instance) (annals_rocksdb_memtable_bytes{${NODE}})`, legend: '{{instance}}' }],
        }),
        series({
          title: 'To be compacted',
          description: 'Bytes that compaction has yet to rewrite. Growing without end: writes will be stalled.',
          unit: 'bytes',
          width: 8,
          queries: [{ expr: `sum by (instance) (annals_rocksdb_compaction_pending_bytes{${NODE}})`, legend: '{{instance}}' }],
        }),
        series({
          title: 'Files on level 0',
          description: 'Many of them slow reads, then writes.',
          unit: 'short',
          width: 8,
          queries: [{ expr: `sum by (instance) (annals_rocksdb_l0_files{${NODE}})`, legend: '{{instance}}' }],
        }),
        series({
          title: 'Writes held back',
          description: 'The part of the time for which writes waited for compaction.',
          unit: 'percentunit',
          width: 8,
          queries: [{ expr: rate('annals_rocksdb_write_stall_seconds_total', ['instance']), legend: '{{instance}}' }],
        }),
        series({
          title: 'Compactions and flushes',
          description: 'Running now.',
          unit: 'none',
          width: 8,
          queries: [
            { expr: each('annals_rocksdb_running_compactions'), legend: '{{instance}} compactions' },
            { expr: each('annals_rocksdb_running_flushes'), legend: '{{instance}} flushes' },
          ],
        }),
        series({
          title: 'Block cache hits',
          description: 'The part of blocks that were found in memory. Low with many reads of old events.',
          unit: 'percentunit',
          width: 8,
          max: 1,
          queries: [
            {
              expr: `${rate('annals_rocksdb_block_cache_hits_total', ['instance'])}
                / (${rate('annals_rocksdb_block_cache_hits_total', ['instance'])} + ${rate('annals_rocksdb_block_cache_misses_total', ['instance'])} > 0)`,
              legend: '{{instance}}',
            },
          ],
        }),
        series({
          title: 'Memory of caches',
          description: 'The block cache, and the newest events that live subscriptions are served from.',
          unit: 'bytes',
          width: 8,
          queries: [
            { expr: each('annals_rocksdb_block_cache_bytes'), legend: '{{instance}} blocks' },
            { expr: each('annals_ring_bytes'), legend: '{{instance}} newest events' },
          ],
        }),
        series({
          title: 'Flush of the state (p99)',
          description: 'Seconds to write applied events from memory to files. Empty until the first flush.',
          unit: 's',
          width: 8,
          queries: [{ expr: quantile(0.99, 'annals_state_flush_duration_seconds', ['instance']), legend: '{{instance}}' }],
        }),
      ],
    },
    {
      title: 'Scavenge',
      panels: [
        series({
          title: 'Progress',
          description: 'How much of the log the last scavenge has looked at. 0 where there never was one.',
          unit: 'percentunit',
          width: 8,
          max: 1,
          queries: [
            { expr: `annals_scavenge_position{${NODE}} / clamp_min(annals_scavenge_point{${NODE}}, 1)`, legend: '{{instance}}' },
          ],
        }),
        series({
          title: 'Reclaimed',
          description: 'Bytes of data and metadata that the last scavenge has removed.',
          unit: 'bytes',
          width: 8,
          queries: [{ expr: each('annals_scavenge_reclaimed_bytes'), legend: '{{instance}}' }],
        }),
        series({
          title: 'Still to do',
          description: 'Positions whose files a node has still to write anew; and 1 while a scavenge goes on.',
          unit: 'short',
          width: 8,
          queries: [
            { expr: each('annals_scavenge_positions_to_give_back'), legend: '{{instance}} to give back' },
            { expr: each('annals_scavenge_running'), legend: '{{instance}} runs' },
          ],
        }),
      ],
    },
  ],
);
