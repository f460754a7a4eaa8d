//! What the consensus library runs on: tokio. With the feature `simulation`
//! tokio too, but a simulation can decide what is random and what stands still.

#[cfg(not(feature = "simulation"))]
pub(crate) use openraft_rt_tokio::TokioRuntime as Runtime;

#[cfg(feature = "simulation")]
pub(crate) use crate::simulation::runtime::SimulatedRuntime as Runtime;
