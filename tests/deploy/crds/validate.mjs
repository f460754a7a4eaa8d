// Validates the custom resources in files of manifests, each against the schema of
// its own kind. A kind that is neither listed here nor part of Kubernetes is an error.
//
//   node validate.mjs FILE…
//   node validate.mjs --kinds      lists the kinds whose schemas it has

import fs from "node:fs";
import { Certificate, Issuer } from "@kubernetes-models/cert-manager/cert-manager.io/v1";
import { PodMonitor, PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import YAML from "yaml";

const SCHEMAS = {
  "cert-manager.io/v1": { Certificate, Issuer },
  "monitoring.coreos.com/v1": { PodMonitor, PrometheusRule },
};

if (process.argv[2] === "--kinds") {
  for (const kinds of Object.values(SCHEMAS)) console.log(Object.keys(kinds).join("\n"));
  process.exit();
}

// What kubernetes-validate knows: groups of Kubernetes itself have no dot, or end so.
const isBuiltIn = (apiVersion) => !apiVersion.split("/")[0].includes(".") || /\.k8s\.io\//.test(apiVersion);

let checked = 0;
let failed = 0;
for (const file of process.argv.slice(2)) {
  for (const document of YAML.parseAllDocuments(fs.readFileSync(file, "utf8"))) {
    const object = document.toJS();
    if (!object || isBuiltIn(object.apiVersion)) continue;
    const name = `${file}: ${object.kind} ${object.metadata?.name}`;
    const Model = SCHEMAS[object.apiVersion]?.[object.kind];
    try {
      if (!Model) throw new Error(`no schema for ${object.apiVersion} ${object.kind}: add it to validate.mjs`);
      new Model(object).validate();
      checked += 1;
    } catch (error) {
      failed += 1;
      console.error(`${name}: ${error.message}`);
    }
  }
}
console.log(`${checked} custom resources are valid, ${failed} are not`);
// Nothing to check would be a fault in the call.
process.exit(failed > 0 || checked === 0 ? 1 : 0);
