// What our dashboards are made of: a few kinds of panels, each with a unit and a
// description, over queries that look at the chosen cluster and nodes alone.
//
// A dashboard is a list of rows of panels; places on the grid follow from widths.

import {
  AxisPlacement,
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  type Dashboard,
  DashboardCursorSync,
  type FieldConfig,
  FieldColorModeId,
  GraphDrawStyle,
  LegendDisplayMode,
  MappingType,
  type Panel,
  PercentChangeColorMode,
  type RowPanel,
  SortOrder,
  StackingMode,
  type Threshold,
  ThresholdsMode,
  TooltipDisplayMode,
  type ValueMapping,
  VariableRefresh,
  VariableSort,
  VisibilityMode,
  VizOrientation,
} from '@grafana/schema';
import type { Options as StatOptions } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type {
  FieldConfig as TimelineField,
  Options as TimelineOptions,
} from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type {
  FieldConfig as SeriesField,
  Options as SeriesOptions,
} from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

/** Labels of the chosen cluster, and of the chosen nodes of it. */
export const CLUSTER = 'cluster=~"$cluster"';
export const NODE = `${CLUSTER},instance=~"$node"`;

/** Units as Grafana names them. */
export type Unit =
  | 'short'
  | 'none'
  | 's'
  | 'd'
  | 'bytes'
  | 'Bps'
  | 'ops'
  | 'reqps'
  | 'percentunit'
  | 'dateTimeAsIso'
  | 'cps';

/** A query, and how its series are called. */
export interface Query {
  expr: string;
  legend: string;
}

interface Common {
  title: string;
  /** What it shows, and when to worry. */
  description: string;
  unit: Unit;
  queries: Query[];
  /** Of 24. */
  width: number;
  height?: number;
  decimals?: number;
  min?: number;
  max?: number;
}

/** A panel whose place is not known yet. */
export interface Placeable {
  panel: Panel;
  width: number;
  height: number;
}

/** Panels under one heading. */
export interface Row {
  title: string;
  panels: Placeable[];
}

const DATASOURCE = { type: 'prometheus', uid: '${datasource}' };

/** A query as the Prometheus data source takes it. */
interface Target extends Record<string, unknown> {
  datasource: typeof DATASOURCE;
  refId: string;
  expr: string;
  legendFormat: string;
  instant: boolean;
  range: boolean;
}

function targets(queries: Query[], instant: boolean): Target[] {
  return queries.map(({ expr, legend }, index) => ({
    datasource: DATASOURCE,
    refId: String.fromCharCode('A'.charCodeAt(0) + index),
    expr: expr.replace(/\s+/g, ' ').trim(),
    legendFormat: legend,
    instant,
    range: !instant,
  }));
}

function field(common: Common, more: FieldConfig): FieldConfig {
  return {
    unit: common.unit,
    ...(common.decimals === undefined ? {} : { decimals: common.decimals }),
    ...(common.min === undefined ? {} : { min: common.min }),
    ...(common.max === undefined ? {} : { max: common.max }),
    ...more,
  };
}

function place(type: string, common: Common, instant: boolean, defaults: FieldConfig, options: object): Placeable {
  const panel: Panel = {
    type,
    title: common.title,
    description: common.description,
    datasource: DATASOURCE,
    targets: targets(common.queries, instant),
    fieldConfig: { defaults: field(common, defaults), overrides: [] },
    options: options as Record<string, unknown>,
  };
  return { panel, width: common.width, height: common.height ?? 8 };
}

/** Lines over time. */
export function series(common: Common & { stacked?: boolean }): Placeable {
  const custom: SeriesField = {
    drawStyle: GraphDrawStyle.Line,
    lineWidth: 1,
    fillOpacity: common.stacked ? 25 : 8,
    spanNulls: false,
    axisPlacement: AxisPlacement.Auto,
    ...(common.stacked ? { stacking: { mode: StackingMode.Normal, group: 'A' } } : {}),
  };
  const options: SeriesOptions = {
    legend: { displayMode: LegendDisplayMode.List, placement: 'bottom', showLegend: true, calcs: [] },
    tooltip: { mode: TooltipDisplayMode.Multi, sort: SortOrder.Descending },
  };
  return place('timeseries', { min: 0, ...common }, false, { custom: { ...custom } }, options);
}

/** From which value on something is to be worried about, and from which it is bad. */
export interface Worry {
  warn: number;
  bad: number;
}

/** One number, or one for each series. Low numbers are bad where `bad` is below `warn`. */
export function stat(common: Common & { worry?: Worry; text?: BigValueTextMode; mappings?: ValueMapping[] }): Placeable {
  const { worry, mappings } = common;
  const steps: Threshold[] = [{ value: null, color: 'green' }];
  if (worry !== undefined && worry.bad >= worry.warn) {
    steps.push({ value: worry.warn, color: 'orange' }, { value: worry.bad, color: 'red' });
  } else if (worry !== undefined) {
    steps.splice(0, 1, { value: null, color: 'red' });
    steps.push({ value: worry.bad, color: 'orange' }, { value: worry.warn, color: 'green' });
  }
  const options: StatOptions = {
    colorMode: BigValueColorMode.Value,
    graphMode: BigValueGraphMode.None,
    justifyMode: BigValueJustifyMode.Auto,
    textMode: common.text ?? BigValueTextMode.Value,
    wideLayout: true,
    orientation: VizOrientation.Auto,
    reduceOptions: { values: false, calcs: ['lastNotNull'] },
    percentChangeColorMode: PercentChangeColorMode.Standard,
    showPercentChange: false,
  };
  const defaults: FieldConfig = {
    color: { mode: FieldColorModeId.Thresholds },
    thresholds: { mode: ThresholdsMode.Absolute, steps },
    ...(mappings === undefined ? {} : { mappings }),
  };
  return place('stat', { height: 4, ...common }, true, defaults, options);
}

/** What a number of a timeline means. */
export interface State {
  value: number;
  text: string;
  color: string;
}

/** A lane for each series, coloured by its state. */
export function timeline(common: Common & { states: State[] }): Placeable {
  const custom: TimelineField = { fillOpacity: 80, lineWidth: 0 };
  const options: TimelineOptions = {
    mergeValues: true,
    rowHeight: 0.9,
    showValue: VisibilityMode.Auto,
    alignValue: 'left',
    legend: { displayMode: LegendDisplayMode.List, placement: 'bottom', showLegend: true, calcs: [] },
    tooltip: { mode: TooltipDisplayMode.Single, sort: SortOrder.None },
  };
  const named = Object.fromEntries(
    common.states.map(({ value, text, color }, index) => [String(value), { text, color, index }]),
  );
  const mappings: ValueMapping[] = [{ type: MappingType.ValueToText, options: named }];
  return place('state-timeline', common, false, { custom: { ...custom }, mappings }, options);
}

/** Puts rows below each other, and what does not fit into a row's width on its next line. */
function grid(rows: Row[]): Array<Panel | RowPanel> {
  const panels: Array<Panel | RowPanel> = [];
  let y = 0;
  let id = 1;
  for (const row of rows) {
    panels.push({
      type: 'row',
      id: id++,
      title: row.title,
      collapsed: false,
      gridPos: { x: 0, y, w: 24, h: 1 },
      panels: [],
    } satisfies RowPanel);
    y += 1;
    let x = 0;
    let height = 0;
    for (const { panel, width, height: own } of row.panels) {
      if (x + width > 24) {
        [x, y, height] = [0, y + height, 0];
      }
      panels.push({ ...panel, id: id++, gridPos: { x, y, w: width, h: own } });
      [x, height] = [x + width, Math.max(height, own)];
    }
    y += height;
  }
  return panels;
}

/** A dashboard with our variables. */
export function dashboard(about: { uid: string; title: string; description: string }, rows: Row[]): Dashboard {
  const chosen = { selected: true, text: 'All', value: '$__all' };
  const choice = (name: string, label: string, query: string, description: string) => ({
    name,
    label,
    description,
    type: 'query' as const,
    datasource: DATASOURCE,
    query: { query, refId: `variable-${name}` },
    refresh: VariableRefresh.onTimeRangeChanged,
    sort: VariableSort.alphabeticalAsc,
    multi: true,
    includeAll: true,
    // Also what has no such label: one cluster needs no name.
    allValue: '.*',
    current: chosen,
  });
  return {
    ...about,
    tags: ['annals'],
    schemaVersion: 39,
    editable: true,
    graphTooltip: DashboardCursorSync.Crosshair,
    refresh: '30s',
    time: { from: 'now-1h', to: 'now' },
    timezone: 'browser',
    links: [
      {
        asDropdown: false,
        icon: 'dashboard',
        includeVars: true,
        keepTime: true,
        tags: ['annals'],
        targetBlank: false,
        title: 'Annals',
        tooltip: '',
        type: 'dashboards',
        url: '',
      },
    ],
    annotations: {
      list: [
        {
          name: 'Leader changes',
          datasource: DATASOURCE,
          enable: true,
          iconColor: 'orange',
          expr: `sum by (cluster) (changes(annals_raft_is_leader{${NODE}}[$__interval])) > 0`,
          titleFormat: 'Leadership changed',
        } as NonNullable<NonNullable<Dashboard['annotations']>['list']>[number],
      ],
    },
    templating: {
      list: [
        {
          name: 'datasource',
          label: 'Data source',
          description: 'The Prometheus that scrapes the nodes.',
          type: 'datasource',
          query: 'prometheus',
          current: { selected: false, text: 'default', value: 'default' },
        },
        choice('cluster', 'Cluster', 'label_values(annals_build_info, cluster)', 'The label that the scrape gives to a cluster.'),
        choice('node', 'Node', `label_values(annals_build_info{${CLUSTER}}, instance)`, 'The address at which a node is scraped.'),
      ],
    },
    panels: grid(rows),
  };
}

/** A quantile of a histogram over the last scrapes, by some labels. */
export function quantile(q: number, metric: string, by: string[], selector: string = NODE): string {
  return `histogram_quantile(${q}, sum by (${[...by, 'le'].join(', ')}) (rate(${metric}_bucket{${selector}}[$__rate_interval])))`;
}

/** What a counter grows in a second, summed by some labels. */
export function rate(metric: string, by: string[], selector: string = NODE): string {
  return `sum by (${by.join(', ')}) (rate(${metric}{${selector}}[$__rate_interval]))`;
}
