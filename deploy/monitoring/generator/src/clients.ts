import { NODE, dashboard, quantile, rate, series } from './panels';

/** Calls of clients; nodes among themselves are another matter. */
const CALLS = `${NODE},grpc_service!~"annals.internal.*"`;
const FAILED = 'Internal|DataLoss|Unknown|ResourceExhausted|DeadlineExceeded|Unavailable';

/** Who asks for what, how often, how long it takes, and what goes wrong. */
export const clients = dashboard(
  {
    uid: 'annals-clients',
    title: 'Annals / Clients & gRPC',
    description: 'Rate, errors and duration of each method; connections, readers, and the process that serves them.',
  },
  [
    {
      title: 'Calls',
      panels: [
        series({
          title: 'Rate, by method',
          description: 'Calls that ended. A subscription ends when its client goes.',
          unit: 'reqps',
          width: 12,
          queries: [
            { expr: rate('grpc_server_handled_total', ['grpc_service', 'grpc_method'], CALLS), legend: '{{grpc_service}}/{{grpc_method}}' },
          ],
        }),
        series({
          title: 'Rate, by status',
          description: 'Canceled is a client that went away, FailedPrecondition and NotFound are answers.',
          unit: 'reqps',
          width: 12,
          queries: [{ expr: rate('grpc_server_handled_total', ['grpc_code'], CALLS), legend: '{{grpc_code}}' }],
        }),
        series({
          title: 'Failed because of the server, by method',
          description: 'The part of the calls of a method. Above 1 % for ten minutes an alert fires.',
          unit: 'percentunit',
          width: 12,
          queries: [
            {
              expr: `(sum by (grpc_service, grpc_method) (rate(grpc_server_handled_total{${CALLS},grpc_code=~"${FAILED}"}[$__rate_interval]))
                or sum by (grpc_service, grpc_method) (rate(grpc_server_handled_total{${CALLS}}[$__rate_interval])) * 0)
                / (sum by (grpc_service, grpc_method) (rate(grpc_server_handled_total{${CALLS}}[$__rate_interval])) > 0)`,
              legend: '{{grpc_service}}/{{grpc_method}}',
            },
          ],
        }),
        series({
          title: 'Duration, by method (p99)',
          description: 'From the headers of a call to its status. Subscriptions last as long as they are open.',
          unit: 's',
          width: 12,
          queries: [
            { expr: quantile(0.99, 'grpc_server_handling_seconds', ['grpc_service', 'grpc_method'], CALLS), legend: '{{grpc_service}}/{{grpc_method}}' },
          ],
        }),
        series({
          title: 'Calls in flight, by method',
          description: 'Begun and not ended; subscriptions among them.',
          unit: 'short',
          width: 12,
          queries: [
            { expr: `sum by (grpc_service, grpc_method) (annals_grpc_inflight{${CALLS}}) > 0`, legend: '{{grpc_service}}/{{grpc_method}}' },
          ],
        }),
        series({
          title: 'Calls between nodes',
          description: 'Replication, votes and appends that a follower hands to the leader.',
          unit: 'reqps',
          width: 12,
          queries: [
            { expr: rate('grpc_server_handled_total', ['grpc_method'], `${NODE},grpc_service=~"annals.internal.*"`), legend: '{{grpc_method}}' },
          ],
        }),
      ],
    },
    {
      title: 'Appends and reads',
      panels: [
        series({
          title: 'Bytes appended',
          description: 'Type, metadata and data of events.',
          unit: 'Bps',
          width: 8,
          queries: [{ expr: rate('annals_bytes_appended_total', ['instance']), legend: '{{instance}}' }],
        }),
        series({
          title: 'Events in one append',
          description: 'On average. Many small appends cost more than few larger ones.',
          unit: 'short',
          width: 8,
          queries: [
            {
              expr: `${rate('annals_append_batch_events_sum', ['instance'])} / (${rate('annals_append_batch_events_count', ['instance'])} > 0)`,
              legend: '{{instance}}',
            },
          ],
        }),
        series({
          title: 'Append latency, by kind (p99)',
          description: 'Which way of appending is slow.',
          unit: 's',
          width: 8,
          queries: [{ expr: quantile(0.99, 'annals_append_duration_seconds', ['api']), legend: '{{api}}' }],
        }),
        series({
          title: 'Reads, by kind and result',
          description: 'Reads that ended, and how.',
          unit: 'reqps',
          width: 12,
          queries: [{ expr: rate('annals_read_requests_total', ['api', 'result']), legend: '{{api}} {{result}}' }],
        }),
        series({
          title: 'Read latency, by kind (p99)',
          description: 'To the last event handed to the connection: a client that reads slowly is in it.',
          unit: 's',
          width: 12,
          queries: [{ expr: quantile(0.99, 'annals_read_duration_seconds', ['api']), legend: '{{api}}' }],
        }),
      ],
    },
    {
      title: 'Connections and readers',
      panels: [
        series({
          title: 'Connections',
          description: 'Open, of clients and peers. connections_max bounds them.',
          unit: 'short',
          width: 8,
          queries: [{ expr: `annals_connections{${NODE}}`, legend: '{{instance}}' }],
        }),
        series({
          title: 'Connections refused',
          description: 'Because connections_max or connections_per_address_max were open already.',
          unit: 'cps',
          width: 8,
          queries: [{ expr: rate('annals_connections_refused_total', ['instance']), legend: '{{instance}}' }],
        }),
        series({
          title: 'TLS handshakes that failed',
          description: 'By reason. `failed`: certificates above all. Empty without TLS.',
          unit: 'cps',
          width: 8,
          queries: [
            {
              expr: `${rate('annals_tls_handshakes_failed_total', ['instance', 'reason'])} or vector(0)`,
              legend: '{{instance}} {{reason}}',
            },
          ],
        }),
        series({
          title: 'Subscriptions open',
          description: 'By kind, on the chosen nodes.',
          unit: 'short',
          width: 8,
          queries: [{ expr: `sum by (kind) (annals_subscriptions_active{${NODE}})`, legend: '{{kind}}' }],
        }),
        series({
          title: 'Slow subscribers',
          description: 'Live subscriptions that fell more than a page behind, and readers that were ended because they took nothing.',
          unit: 'cps',
          width: 8,
          queries: [
            { expr: rate('annals_subscription_slow_total', ['instance']), legend: '{{instance}} behind' },
            { expr: rate('annals_readers_given_up_total', ['instance']), legend: '{{instance}} ended' },
          ],
        }),
        series({
          title: 'Events sent',
          description: 'To readers and subscribers.',
          unit: 'cps',
          width: 8,
          queries: [{ expr: rate('annals_events_read_total', ['instance']), legend: '{{instance}}' }],
        }),
      ],
    },
    {
      title: 'Process',
      panels: [
        series({
          title: 'Processor',
          description: 'Cores in use.',
          unit: 'short',
          width: 6,
          queries: [{ expr: rate('process_cpu_seconds_total', ['instance'], `${NODE},job=~".*annals.*"`), legend: '{{instance}}' }],
        }),
        series({
          title: 'Memory',
          description: 'Resident bytes.',
          unit: 'bytes',
          width: 6,
          queries: [{ expr: `process_resident_memory_bytes{${NODE},job=~".*annals.*"}`, legend: '{{instance}}' }],
        }),
        series({
          title: 'File descriptors',
          description: 'The part of those that the process may have.',
          unit: 'percentunit',
          width: 6,
          queries: [
            {
              expr: `process_open_fds{${NODE},job=~".*annals.*"} / process_max_fds{${NODE},job=~".*annals.*"}`,
              legend: '{{instance}}',
            },
          ],
        }),
        series({
          title: 'Lines logged, by level',
          description: 'And those left out because there were too many of a kind.',
          unit: 'cps',
          width: 6,
          queries: [
            { expr: rate('annals_log_lines_total', ['level']), legend: '{{level}}' },
            { expr: `sum(rate(annals_log_lines_left_out_total{${NODE}}[$__rate_interval]))`, legend: 'left out' },
          ],
        }),
      ],
    },
  ],
);
