//! One pass of one case, in a process of its own: what it measured is the last line that it writes.

use crate::bench::{Bench, HEAP, Pass};
use crate::cases;
use crate::options::Child;
use crate::running::Running;

pub fn run(child: &Child) -> Result<bool, String> {
    let mut all = cases::all().into_iter();
    let case = all
        .find(|case| case.name == child.case)
        .ok_or_else(|| format!("no case is named {:?}", child.case))?;
    if child.pass == Pass::Allocations && HEAP.get().is_none() {
        return Err("only the program `counting` counts allocations".to_owned());
    }
    let server = Running::start(case.needs).map_err(|error| error.to_string())?;
    let measured = (case.run)(Bench {
        operations: child.operations,
        url: server.as_ref().map(Running::url).unwrap_or_default(),
        server: server.as_ref().and_then(Running::pid),
        pass: child.pass,
    });
    let line = serde_json::to_string(&measured).map_err(|error| error.to_string())?;
    println!("{line}");
    Ok(true)
}
