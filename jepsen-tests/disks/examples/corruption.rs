//! Damages the files of a node: `corruption DIRECTORY [SEEDS [QUIET_MS]]`. Prints
//! what the node made of each as a line of JSON. With QUIET_MS below about 1,000
//! it shows what the witness cannot know yet.

use std::path::PathBuf;
use std::time::Duration;

use annals_disks::corruption::{Damage, Part};
use annals_disks::node;
use annals_disks::rot::{Ending, Specimen};
use anyhow::{Context as _, Result, ensure};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().context("which directory?")?);
    let seeds: u64 = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let quiet = Duration::from_millis(arguments.next().map_or(Ok(2_500), |text| text.parse())?);
    let (mut cases, mut failures) = (0, 0);
    for (name, ending) in [("stopped", Ending::Orderly), ("killed", Ending::KilledAfter(quiet))] {
        let specimen = Specimen::make(&node::binary()?, &directory.join(name), ending)?;
        for part in Part::ALL {
            for damage in Damage::ALL {
                for seed in 0..seeds {
                    let at_rest = specimen.try_damage(part, damage, seed)?;
                    let tables = part == Part::StateTable;
                    let running = if tables { specimen.try_damage_running(part, damage, seed)? } else { None };
                    for case in at_rest.into_iter().chain(running) {
                        println!("{}", serde_json::to_string(&case)?);
                        cases += 1;
                        failures += u32::from(case.is_failure());
                    }
                }
            }
        }
    }
    ensure!(failures == 0, "{failures} of {cases} cases failed");
    Ok(())
}
