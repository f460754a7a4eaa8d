import { CLUSTER, dashboard, rate, series, stat } from './panels';

// Told by the node that leads: choosing nodes makes no sense here.
const each = (metric: string) => `${metric}{${CLUSTER}}`;
const legend = '{{group}} on {{source}}';
const by = ['source', 'group'];

/** Who consumes, and who is behind. */
export const groups = dashboard(
  {
    uid: 'annals-subscriptions',
    title: 'Annals / Subscriptions',
    description: 'Subscriptions, and consumer groups one by one: how far behind, what is in flight, what was given up.',
  },
  [
    {
      title: 'Now',
      panels: [
        stat({
          title: 'Consumer groups',
          description: 'Groups that the leader serves.',
          unit: 'none',
          width: 4,
          queries: [{ expr: `count(${each('annals_group_consumers')}) or vector(0)`, legend: 'groups' }],
        }),
        stat({
          title: 'Consumers connected',
          description: 'To any group.',
          unit: 'none',
          width: 4,
          queries: [{ expr: `sum(${each('annals_group_consumers')}) or vector(0)`, legend: 'consumers' }],
        }),
        stat({
          title: 'Groups without consumers',
          description: 'That have events to be consumed.',
          unit: 'none',
          width: 4,
          worry: { warn: 1, bad: 5 },
          queries: [
            { expr: `count((${each('annals_group_consumers')} == 0) and (${each('annals_group_lag_events')} > 0)) or vector(0)`, legend: 'groups' },
          ],
        }),
        stat({
          title: 'Parked messages',
          description: 'Given up and not dropped since.',
          unit: 'short',
          width: 4,
          worry: { warn: 1, bad: 1000 },
          queries: [{ expr: `sum(${each('annals_group_parked')}) or vector(0)`, legend: 'parked' }],
        }),
        stat({
          title: 'Oldest parked message',
          description: 'How long somebody should have looked at it.',
          unit: 's',
          width: 4,
          worry: { warn: 3600, bad: 86400 },
          queries: [{ expr: `max(${each('annals_group_oldest_parked_seconds')}) or vector(0)`, legend: 'age' }],
        }),
        stat({
          title: 'Subscriptions',
          description: 'Open on all nodes, without those of groups.',
          unit: 'none',
          width: 4,
          queries: [{ expr: `sum(${each('annals_subscriptions_active')}) or vector(0)`, legend: 'open' }],
        }),
      ],
    },
    {
      title: 'Consumer groups',
      panels: [
        series({
          title: 'Events behind',
          description: 'From the last event below which all are finished to the end of the source. Growing: consumers do not keep up.',
          unit: 'short',
          width: 12,
          queries: [{ expr: each('annals_group_lag_events'), legend }],
        }),
        series({
          title: 'Time behind',
          description: 'The age of the first event that is loaded and not finished.',
          unit: 's',
          width: 12,
          queries: [{ expr: each('annals_group_lag_seconds'), legend }],
        }),
        series({
          title: 'In flight',
          description: 'Messages that a consumer has and has not answered.',
          unit: 'short',
          width: 8,
          queries: [{ expr: each('annals_group_in_flight'), legend }],
        }),
        series({
          title: 'Waiting',
          description: 'Messages that are loaded and wait for a consumer.',
          unit: 'short',
          width: 8,
          queries: [{ expr: each('annals_group_waiting'), legend }],
        }),
        series({
          title: 'Consumers',
          description: 'Connected to each group.',
          unit: 'none',
          width: 8,
          queries: [{ expr: each('annals_group_consumers'), legend }],
        }),
        series({
          title: 'Delivered',
          description: 'Messages sent to consumers.',
          unit: 'cps',
          width: 8,
          queries: [{ expr: rate('annals_group_delivered_total', by, CLUSTER), legend }],
        }),
        series({
          title: 'Finished',
          description: 'Messages that were acknowledged or skipped.',
          unit: 'cps',
          width: 8,
          queries: [{ expr: rate('annals_group_acked_total', by, CLUSTER), legend }],
        }),
        series({
          title: 'Delivered again',
          description: 'Not answered in time, or refused. Many: consumers fail, or the message timeout is too short.',
          unit: 'cps',
          width: 8,
          queries: [{ expr: rate('annals_group_retries_total', by, CLUSTER), legend }],
        }),
        series({
          title: 'Parked',
          description: 'Messages that were given up and not dropped since.',
          unit: 'short',
          width: 8,
          queries: [{ expr: each('annals_group_parked'), legend }],
        }),
        series({
          title: 'Age of the oldest parked',
          description: 'What that event should have caused has not happened for so long.',
          unit: 's',
          width: 8,
          queries: [{ expr: each('annals_group_oldest_parked_seconds'), legend }],
        }),
        series({
          title: 'Since the checkpoint',
          description: 'Places from which a new leader would deliver again. Empty before the first checkpoint.',
          unit: 'short',
          width: 8,
          queries: [{ expr: `${each('annals_group_source_end')} - ${each('annals_group_checkpoint')}`, legend }],
        }),
      ],
    },
    {
      title: 'Subscriptions',
      panels: [
        series({
          title: 'Open, by kind and node',
          description: 'Catch-up and live subscriptions.',
          unit: 'short',
          width: 8,
          queries: [{ expr: `sum by (instance, kind) (${each('annals_subscriptions_active')})`, legend: '{{instance}} {{kind}}' }],
        }),
        series({
          title: 'Opened',
          description: 'Many without an end: clients that begin again and again.',
          unit: 'cps',
          width: 8,
          queries: [{ expr: rate('annals_subscriptions_total', ['kind'], CLUSTER), legend: '{{kind}}' }],
        }),
        series({
          title: 'Fallen behind',
          description: 'Times a live subscription had to be caught up from the log, and readers ended because they took nothing.',
          unit: 'cps',
          width: 8,
          queries: [
            { expr: rate('annals_subscription_slow_total', ['instance'], CLUSTER), legend: '{{instance}} behind' },
            { expr: rate('annals_readers_given_up_total', ['instance'], CLUSTER), legend: '{{instance}} ended' },
          ],
        }),
      ],
    },
  ],
);
