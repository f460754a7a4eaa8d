// Writes the dashboards into a directory, or with --check compares them with what
// is there: main.js [--check] DIRECTORY

import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Dashboard } from '@grafana/schema';

import { clients } from './clients';
import { groups } from './groups';
import { overview } from './overview';
import { storage } from './storage';

const dashboards: Dashboard[] = [overview, storage, clients, groups];

/** What no type can say. */
function wrong(dashboard: Dashboard): string[] {
  const problems: string[] = [];
  const titles = new Set<string>();
  for (const panel of dashboard.panels ?? []) {
    if (panel.type === 'row' || !('targets' in panel)) continue;
    const title = panel.title ?? '';
    if (titles.has(title)) problems.push(`two panels "${title}"`);
    titles.add(title);
    if (!panel.description?.endsWith('.')) problems.push(`"${title}" has no sentence that describes it`);
    if (!panel.fieldConfig?.defaults.unit) problems.push(`"${title}" has no unit`);
    for (const target of panel.targets ?? []) {
      const expr = String(target['expr']);
      if (/\[\d+[smh]\]/.test(expr) && !expr.includes('deriv(')) {
        problems.push(`"${title}" looks at a fixed range, not $__rate_interval: ${expr}`);
      }
      if (!expr.includes('$cluster')) problems.push(`"${title}" looks at all clusters: ${expr}`);
    }
  }
  return problems.map((problem) => `${dashboard.title}: ${problem}`);
}

const check = process.argv.includes('--check');
const directory = process.argv.filter((argument) => argument !== '--check')[2];
if (directory === undefined) throw new Error('name the directory of the dashboards');

const problems = dashboards.flatMap(wrong);
const files = new Map(dashboards.map((dashboard) => [`${dashboard.uid}.json`, `${JSON.stringify(dashboard, null, 2)}\n`]));
for (const [name, text] of files) {
  const file = join(directory, name);
  if (!check) {
    writeFileSync(file, text);
  } else if (!readdirSync(directory).includes(name) || readFileSync(file, 'utf8') !== text) {
    problems.push(`${name} is not what the generator makes: run tests/monitoring/run --write`);
  }
}
for (const name of readdirSync(directory)) {
  if (!files.has(name)) problems.push(`${name} is made by nothing`);
}
for (const problem of problems) console.error(problem);
process.exitCode = problems.length === 0 ? 0 : 1;
