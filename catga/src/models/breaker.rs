use std::sync::Arc;
use std::time::Duration;

use shuttle::future::{block_on, spawn};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::atomic::{AtomicUsize, Ordering};

use super::{check, step};
use crate::breaker::{Pass, Phase, State, Verdict, wait};
use crate::handlers::Breaker;

/// A breaker that lets a trial through at once: shuttle has no time.
fn breaker() -> Arc<State> {
    let open = Duration::ZERO;
    Arc::new(State::new(Breaker { failures: 1, open }))
}

async fn pass(state: &Arc<State>) -> Pass {
    loop {
        wait(Arc::clone(state)).await;
        if let Ok(pass) = Pass::try_take(state) {
            return pass;
        }
    }
}

fn end(mut pass: Pass, verdict: Verdict) {
    pass.verdict = verdict;
    drop(pass);
}

#[test]
fn there_is_one_trial_at_a_time_and_who_waits_for_it_goes_on() {
    check(|| {
        let state = breaker();
        end(Pass::try_take(&state).unwrap(), Verdict::Failed);
        let trials = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let (state, trials) = (Arc::clone(&state), Arc::clone(&trials));
                spawn(async move {
                    let pass = pass(&state).await;
                    if pass.epoch.is_none() {
                        assert_eq!(trials.fetch_add(1, Ordering::SeqCst), 0, "two trials");
                        step();
                        trials.fetch_sub(1, Ordering::SeqCst);
                    }
                    let verdicts = [Verdict::Alive, Verdict::Failed, Verdict::Unknown];
                    end(pass, verdicts[thread_rng().gen_range(0..3)]);
                })
            })
            .collect();
        block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
}

#[test]
fn what_began_before_it_opened_does_not_count_after_it_closed() {
    check(|| {
        let state = breaker();
        let (early, late) = (
            Pass::try_take(&state).unwrap(),
            Pass::try_take(&state).unwrap(),
        );
        let late = spawn(async move { end(late, Verdict::Failed) });
        end(early, Verdict::Failed);
        block_on(async {
            let trial = pass(&state).await;
            assert!(trial.epoch.is_none(), "it is open, and nobody else asks");
            end(trial, Verdict::Alive);
            late.await.unwrap();
        });
        assert!(
            matches!(state.phase(), Phase::Closed { failures: 0, .. }),
            "{state:?}"
        );
    });
}
