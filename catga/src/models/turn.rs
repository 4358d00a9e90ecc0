use std::sync::Arc;

use shuttle::future::{block_on, spawn};

use super::{check, once, step};
use crate::turn::Turn;

/// A use in two steps, between which nobody else has the value.
fn use_it(uses: &mut u32) {
    let before = *uses;
    step();
    *uses = before + 1;
}

#[test]
fn everybody_gets_the_turn_alone_also_when_others_give_up() {
    check(|| {
        let turn = Arc::new(Turn::new(0));
        let mut tasks: Vec<_> = (0..2)
            .map(|_| {
                let turn = Arc::clone(&turn);
                spawn(async move {
                    let mut value = turn.take().await;
                    use_it(&mut value);
                    turn.put_back(value);
                    1
                })
            })
            .collect();
        let gives_up = Arc::clone(&turn);
        tasks.push(spawn(async move {
            let mut taking = Box::pin(gives_up.take());
            let got = once(&mut taking).await;
            step();
            // It may have been given the turn meanwhile, without having taken it.
            drop(taking);
            got.map_or(0, |mut value| {
                use_it(&mut value);
                gives_up.put_back(value);
                1
            })
        }));
        let tries = Arc::clone(&turn);
        tasks.push(spawn(async move {
            tries.try_take().map_or(0, |mut value| {
                use_it(&mut value);
                tries.put_back(value);
                1
            })
        }));
        let uses = block_on(async {
            let mut uses = 0;
            for task in tasks {
                uses += task.await.unwrap();
            }
            uses
        });
        let value = turn.try_take();
        assert_eq!(value.as_deref(), Some(&uses));
    });
}
