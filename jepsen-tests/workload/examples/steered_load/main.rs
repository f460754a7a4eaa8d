//! Puts load on nodes that come, go and move, as somebody else says, and judges it.
//!
//! `steered_load DIR SEED APPENDS_PER_SECOND` reads orders from standard input, one a
//! line, and answers each with a line that begins with `ok`:
//!
//! | order | meaning |
//! |---|---|
//! | `node NUMBER HOST:PORT` | clients may call this node |
//! | `gone NUMBER` | and this one no more |
//! | `start` | the load begins |
//! | `begin CLASS NAME NUMBER,…` | something is done to these nodes |
//! | `end` | it is over |
//! | `counts` | what was done up to now |
//! | `halt` | the load ends; nothing is read yet |
//! | `restored POSITION` | what there is now was restored, and ends there |
//! | `stop` | the load ends; everything is read, and judged |
//!
//! Beside the usual load runs a [patient client](patient), of whom nothing may fail.
//!
//! `DIR/history.jsonl`, `DIR/verdict.json` and `DIR/report.html` are what a run of the
//! fault suite leaves. The exit code is that of `annals-check`.

#![forbid(unsafe_code)]

mod patient;

use std::path::PathBuf;
use std::process::ExitCode;

use annals_checker::history::{Fault, Installed, NodeNumber, Record, Run};
use annals_checker::{Settings, check, load, report, restored};
use annals_workload::{Endpoints, FinalOptions, Plan, Recorder, Running, Subscriptions, final_phase, start};
use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::patient::{Fared, Patient};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |what: &str| arguments.next().with_context(|| format!("{what} is missing"));
    let directory = PathBuf::from(argument("the directory")?);
    let plan = Plan {
        seed: argument("the seed")?.parse()?,
        appends_per_second: argument("the rate")?.parse()?,
        reads_per_second: 100.0,
        ..Plan::default()
    };
    std::fs::create_dir_all(&directory)?;
    let recorder = Recorder::create(&directory.join("history.jsonl"))?;
    recorder.record(Record::Run(Run {
        scenario: "podsim".to_owned(),
        seed: plan.seed,
        started: recorder.started(),
        ..Run::default()
    }));
    let mut steered = Steered {
        orders: BufReader::new(tokio::io::stdin()).lines(),
        endpoints: Endpoints::new(Vec::new()),
        recorder,
        plan,
        running: None,
        patient: None,
        fared: None,
        restored: None,
        begun: None,
    };
    steered.obey().await?;
    let restored = steered.restored;
    let final_nodes = steered.finish().await?;

    let mut records = load(directory.join("history.jsonl"))?;
    if let Some(position) = restored {
        records = restored::up_to(records, position);
    }
    // During moves of leadership refusals and claims follow the usual rules; only
    // the classes of faults are podsim's own, and whether they happened it knows itself.
    let verdict = check(&records, &Settings { final_nodes, ..Settings::default() });
    std::fs::write(directory.join("verdict.json"), serde_json::to_vec_pretty(&verdict)?)?;
    std::fs::write(directory.join("report.html"), report::html(&records, &verdict))?;
    print!("{}", verdict.table());
    Ok(ExitCode::from(verdict.exit_code()))
}

struct Steered {
    orders: Lines<BufReader<Stdin>>,
    endpoints: Endpoints,
    recorder: Recorder,
    plan: Plan,
    running: Option<Running>,
    patient: Option<(watch::Sender<bool>, JoinHandle<Fared>)>,
    /// How the patient client fared, once the load has ended.
    fared: Option<Fared>,
    /// Where what was restored ends.
    restored: Option<u64>,
    begun: Option<Fault>,
}

impl Steered {
    /// Returns when it is told to stop, or nobody is there to tell it.
    async fn obey(&mut self) -> Result<()> {
        while let Some(line) = self.orders.next_line().await? {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["node", number, address] => self.endpoints.add(number.parse()?, (*address).to_owned()),
                ["gone", number] => self.endpoints.remove(number.parse()?),
                ["start"] => {
                    self.running = Some(start(self.plan.clone(), self.endpoints.clone(), self.recorder.clone()));
                    let (stop, stopped) = watch::channel(false);
                    let patient = Patient::new(self.endpoints.clone(), self.recorder.clone());
                    self.patient = Some((stop, tokio::spawn(patient.run(stopped))));
                }
                ["begin", class, name, nodes] => self.begun = Some(self.begin(class, name, nodes)?),
                ["end"] => self.end(),
                ["counts"] => {
                    println!("ok {:?}", self.running.as_ref().map(Running::counts));
                    continue;
                }
                ["halt"] => self.halt().await?.abandon().await,
                ["restored", position] => self.restored = Some(position.parse()?),
                ["stop"] => return Ok(()),
                _ => bail!("no such order: {line}"),
            }
            println!("ok");
        }
        Ok(())
    }

    fn begin(&self, class: &str, name: &str, nodes: &str) -> Result<Fault> {
        let nodes = nodes.split(',').map(str::parse).collect::<Result<Vec<NodeNumber>, _>>()?;
        let now = self.recorder.now();
        Ok(Fault {
            class: class.to_owned(),
            name: name.to_owned(),
            nodes,
            start: now,
            end: now,
            installed: Installed::Installed,
            detail: String::new(),
        })
    }

    fn end(&mut self) {
        if let Some(mut fault) = self.begun.take() {
            fault.end = self.recorder.now();
            self.recorder.record(Record::Fault(fault));
        }
    }

    /// Ends the load; what follows the log still does.
    async fn halt(&mut self) -> Result<Subscriptions> {
        self.end();
        let running = self.running.take().context("it was never told to start")?;
        let (stop, patient) = self.patient.take().context("it was never told to start")?;
        stop.send_replace(true);
        self.fared = Some(patient.await?);
        Ok(running.stop().await)
    }

    /// Ends the load and reads the final state; which nodes were read.
    async fn finish(mut self) -> Result<Vec<NodeNumber>> {
        let subscriptions = match self.fared {
            None => self.halt().await?,
            // They saw what there is no more, and were ended with the load.
            Some(_) => {
                let none = Plan { subscriptions: 0, ..self.plan.clone() };
                Subscriptions::start(&none, &self.endpoints, &self.recorder)
            }
        };
        let Fared { acknowledged, failed, again, longest_ms } = self.fared.context("the load has ended")?;
        println!(
            "patient {{\"acknowledged\": {acknowledged}, \"failed\": {failed}, \"again\": {again}, \"longest_ms\": {longest_ms}}}"
        );
        let state = final_phase(&self.endpoints, &self.recorder, subscriptions, FinalOptions::default()).await?;
        let nodes = self.endpoints.nodes();
        self.recorder.finish()?;
        println!("ok {state:?}");
        if state.not_drained > 0 {
            bail!("{} subscriptions did not see everything in time", state.not_drained);
        }
        Ok(nodes)
    }
}
