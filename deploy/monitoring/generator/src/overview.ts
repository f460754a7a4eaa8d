import { BigValueTextMode } from '@grafana/schema';

import { CLUSTER, NODE, dashboard, quantile, rate, series, stat, timeline } from './panels';

const ERRORS = 'timed_out|overloaded|not_ready|disk_full|broken|shutting_down';

/** Is it well? One screen for whoever was woken up. */
export const overview = dashboard(
  {
    uid: 'annals-overview',
    title: 'Annals / Overview',
    description: 'Whether a cluster does its work: nodes, leader, appends, reads, what will be a problem soon.',
  },
  [
    {
      title: 'Now',
      panels: [
        stat({
          title: 'Leader',
          description: 'The node that leads with the consent of a quorum. None: no append is accepted.',
          unit: 'none',
          width: 4,
          text: BigValueTextMode.Name,
          queries: [
            {
              expr: `(annals_raft_is_leader{${CLUSTER}} == 1) and on (cluster, job, instance) (annals_raft_quorum_acked_seconds{${CLUSTER}} < 10)`,
              legend: '{{instance}}',
            },
          ],
        }),
        stat({
          title: 'Voters up',
          description: 'Voters that answer and can take part. Fewer than a majority of all voters: no append is accepted.',
          unit: 'none',
          width: 3,
          queries: [{ expr: `sum(cluster:annals_voters_up:count{${CLUSTER}})`, legend: 'up' }],
        }),
        stat({
          title: 'Voters missing',
          description: 'Voters that do not answer. One of three: the next failure stops all appends.',
          unit: 'none',
          width: 3,
          worry: { warn: 1, bad: 2 },
          queries: [
            {
              expr: `sum(cluster:annals_raft_voters:max{${CLUSTER}} - cluster:annals_voters_up:count{${CLUSTER}})`,
              legend: 'missing',
            },
          ],
        }),
        stat({
          title: 'Append p99',
          description: 'One append in a hundred takes this long or longer, replication included.',
          unit: 's',
          width: 3,
          worry: { warn: 0.1, bad: 0.5 },
          queries: [{ expr: `max(cluster:annals_append_duration_seconds:p99_5m{${CLUSTER}})`, legend: 'p99' }],
        }),
        stat({
          title: 'Append errors',
          description: 'The part of appends that fail because of the server, in the last hour. The objective is 0.1 %.',
          unit: 'percentunit',
          width: 3,
          decimals: 3,
          worry: { warn: 0.001, bad: 0.0144 },
          queries: [{ expr: `max(cluster:annals_append_errors:ratio_rate1h{${CLUSTER}})`, legend: 'errors' }],
        }),
        stat({
          title: 'Disk full in',
          description: 'Days until the first disk is full at the rate of the last six hours; at most a year is shown.',
          unit: 'd',
          width: 3,
          decimals: 0,
          worry: { warn: 14, bad: 2 },
          queries: [
            {
              expr: `clamp_max(min(
                (annals_disk_free_bytes{${NODE}} / clamp_min(-deriv(annals_disk_free_bytes{${NODE}}[6h]), 1)) / 86400
              ), 365)`,
              legend: 'days',
            },
          ],
        }),
        stat({
          title: 'Parked messages',
          description: 'Messages that consumer groups have given up. Somebody has to look at each.',
          unit: 'short',
          width: 3,
          worry: { warn: 1, bad: 1000 },
          queries: [{ expr: `sum(annals_group_parked{${CLUSTER}}) or vector(0)`, legend: 'parked' }],
        }),
        stat({
          title: 'Versions',
          description: 'Different builds that run, less one. More than 0 for long: an upgrade stopped half-way.',
          unit: 'none',
          width: 2,
          worry: { warn: 1, bad: 1 },
          queries: [{ expr: `max(cluster:annals_version_skew:count{${CLUSTER}})`, legend: 'skew' }],
        }),
      ],
    },
    {
      title: 'Nodes',
      panels: [
        timeline({
          title: 'State of each node',
          description: 'One lane per node: what it was, and when that changed. Red: it does not answer, or is not ready.',
          unit: 'none',
          width: 24,
          height: 7,
          states: [
            { value: 0, text: 'down', color: 'dark-red' },
            { value: 1, text: 'not ready', color: 'red' },
            { value: 2, text: 'candidate', color: 'orange' },
            { value: 3, text: 'learner', color: 'light-blue' },
            { value: 4, text: 'follower', color: 'green' },
            { value: 5, text: 'leader', color: 'purple' },
          ],
          queries: [
            {
              expr: `
                (1 + max by (cluster, instance) (annals_ready{${NODE}} == 0))
                or (5 * max by (cluster, instance) (annals_node_info{${NODE},role="leader"}))
                or (4 * max by (cluster, instance) (annals_node_info{${NODE},role="follower"}))
                or (3 * max by (cluster, instance) (annals_node_info{${NODE},role="learner"}))
                or (2 * max by (cluster, instance) (annals_node_info{${NODE},role="candidate"}))
                or max by (cluster, instance) (up{job=~".*annals.*",${NODE}} == 0)`,
              legend: '{{instance}}',
            },
          ],
        }),
      ],
    },
    {
      title: 'Work',
      panels: [
        series({
          title: 'Events appended',
          description: 'Events that clients appended, by the node that took them.',
          unit: 'cps',
          width: 8,
          stacked: true,
          queries: [{ expr: rate('annals_events_appended_total', ['instance']), legend: '{{instance}}' }],
        }),
        series({
          title: 'Appends by result',
          description: 'Answers to appends. `wrong_expected_version` is an answer, not an error; many of them: writers that fight for a stream.',
          unit: 'reqps',
          width: 8,
          queries: [{ expr: rate('annals_append_requests_total', ['result']), legend: '{{result}}' }],
        }),
        series({
          title: 'Append latency',
          description: 'From the parsed request to its answer, replication included.',
          unit: 's',
          width: 8,
          queries: [
            { expr: quantile(0.5, 'annals_append_duration_seconds', []), legend: 'p50' },
            { expr: quantile(0.99, 'annals_append_duration_seconds', []), legend: 'p99' },
          ],
        }),
        series({
          title: 'Events read',
          description: 'Events sent to clients, by reads and by subscriptions.',
          unit: 'cps',
          width: 8,
          stacked: true,
          queries: [{ expr: rate('annals_events_read_total', ['instance']), legend: '{{instance}}' }],
        }),
        series({
          title: 'Read latency',
          description: 'From the parsed request to the last event handed to the connection.',
          unit: 's',
          width: 8,
          queries: [
            { expr: quantile(0.5, 'annals_read_duration_seconds', []), legend: 'p50' },
            { expr: quantile(0.99, 'annals_read_duration_seconds', []), legend: 'p99' },
          ],
        }),
        series({
          title: 'Appends that fail because of the server',
          description: 'The part of all appends; the objective is 0.1 %. What a caller does wrong does not count.',
          unit: 'percentunit',
          width: 8,
          queries: [
            {
              expr: `(sum by (cluster) (rate(annals_append_requests_total{${NODE},result=~"${ERRORS}"}[$__rate_interval]))
                or sum by (cluster) (rate(annals_append_requests_total{${NODE}}[$__rate_interval])) * 0)
                / (sum by (cluster) (rate(annals_append_requests_total{${NODE}}[$__rate_interval])) > 0)`,
              legend: '{{cluster}}',
            },
          ],
        }),
      ],
    },
    {
      title: 'Soon a problem?',
      panels: [
        series({
          title: 'Replication lag',
          description: 'Entries of the log that a peer has yet to acknowledge. Briefly tens under load; growing: it falls behind.',
          unit: 'short',
          width: 8,
          queries: [{ expr: `peer:annals_raft_lag_entries:max{${CLUSTER}}`, legend: 'node {{peer}}' }],
        }),
        series({
          title: 'Disk free',
          description: 'The part of the disk of the data directory that is free. Below 15 % something should be done.',
          unit: 'percentunit',
          width: 8,
          max: 1,
          queries: [{ expr: `instance:annals_disk_free:ratio{${NODE}}`, legend: '{{instance}}' }],
        }),
        series({
          title: 'Changes of the leader',
          description: 'How often a node saw another leader. Each change stops appends for a second or two.',
          unit: 'short',
          width: 8,
          queries: [
            { expr: `max by (instance) (increase(annals_raft_leader_changes_total{${NODE}}[$__rate_interval]))`, legend: '{{instance}}' },
          ],
        }),
        series({
          title: 'Consumer groups behind',
          description: 'Events that each group has yet to finish. Growing: its consumers do not keep up.',
          unit: 'short',
          width: 8,
          queries: [{ expr: `annals_group_lag_events{${CLUSTER}}`, legend: '{{group}} on {{source}}' }],
        }),
        series({
          title: 'Lines logged',
          description: 'Warnings and errors. Each error asks for somebody to act: annals node logs --level error.',
          unit: 'cps',
          width: 8,
          queries: [{ expr: rate('annals_log_lines_total', ['instance', 'level'], `${NODE},level=~"error|warn"`), legend: '{{instance}} {{level}}' }],
        }),
        series({
          title: 'Certificates end in',
          description: 'Days until a certificate in use ends. Empty without TLS.',
          unit: 'd',
          width: 8,
          queries: [
            {
              expr: `min by (instance, file) (annals_tls_certificate_expiry_timestamp_seconds{${NODE}} - time()) / 86400`,
              legend: '{{instance}} {{file}}',
            },
          ],
        }),
      ],
    },
  ],
);
