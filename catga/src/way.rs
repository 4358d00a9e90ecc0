//! Where a request goes, and where it goes on to.

use std::marker::PhantomData;
use std::sync::Arc;

use catga_core::{NodeId, Request, Target};

use crate::app::Inner;
use crate::members::Member;
use crate::view::Question;

/// Where a letter goes.
#[derive(Clone, Debug)]
pub(crate) struct Hop {
    pub(crate) target: Target,
    /// The node, where the target is one that is known.
    pub(crate) member: Option<Arc<Member>>,
    /// Whether the node had failed, and this is to show if it still does.
    pub(crate) probe: bool,
    /// Whether it is called directly, where it is this node: nobody else has its id.
    pub(crate) direct: bool,
}

impl Hop {
    pub(crate) fn to(member: Arc<Member>, probe: bool) -> Self {
        Self {
            target: Target::Node(member.info.id.clone()),
            member: Some(member),
            probe,
            direct: false,
        }
    }

    pub(crate) fn called_directly(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    pub(crate) fn blind(target: Target) -> Self {
        Self {
            target,
            member: None,
            probe: false,
            direct: false,
        }
    }
}

/// Whether a letter goes to one node alone, or to whom the strategy picks.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Fixed,
    /// By this key, where there is one.
    Routed(Option<String>),
}

/// Who was asked, and who is next.
pub(crate) struct Way<'a, R> {
    inner: &'a Inner,
    route: &'a Route,
    asked: Vec<NodeId>,
    /// Whether all were asked, and are asked all over again.
    pub(crate) again: bool,
    request: PhantomData<fn() -> R>,
}

impl<'a, R: Request> Way<'a, R> {
    pub(crate) fn new(inner: &'a Inner, route: &'a Route) -> Self {
        Self {
            inner,
            route,
            asked: Vec::new(),
            again: false,
            request: PhantomData,
        }
    }

    pub(crate) fn note(&mut self, hop: &Hop) {
        if let Target::Node(node) = &hop.target {
            self.asked.push(node.clone());
        }
    }

    /// Whoever has the id of a node that has gone was not asked yet.
    pub(crate) fn forget(&mut self, gone: &Hop) {
        self.asked
            .retain(|id| !matches!(&gone.target, Target::Node(node) if node == id));
    }

    /// Somebody who was not asked yet.
    pub(crate) fn fresh(&self) -> Option<Hop> {
        self.another(&self.asked)
    }

    /// Somebody who is not busy with it, when all were asked; and not who failed last if there is another.
    pub(crate) fn idle(&mut self, mut busy: Vec<NodeId>, last: Option<&Hop>) -> Option<Hop> {
        let others = busy.len();
        if let Some(Target::Node(last)) = last.map(|last| &last.target) {
            busy.push(last.clone());
        }
        let idle = self
            .another(&busy)
            .or_else(|| self.another(&busy[..others]));
        self.again |= idle.is_some();
        idle
    }

    /// Somebody who is not among those.
    fn another(&self, but: &[NodeId]) -> Option<Hop> {
        let Route::Routed(key) = self.route else {
            return None;
        };
        let entry = self.inner.table.request::<R>();
        let question = Question {
            request: R::NAME,
            key: key.as_deref(),
            entry: entry.map(|(entry, _)| &**entry),
        };
        let view = self.inner.members.view();
        let member = view.answering(R::NAME)?.another(question, but)?;
        Some(Hop::to(member, false))
    }

    /// The same once more: whoever is there under its name by now.
    fn repeated(&self, hop: &Hop) -> Hop {
        let view = self.inner.members.view();
        let member = hop.member.as_ref().map(|member| {
            let present = view.node(member.info.id.as_str());
            Arc::clone(present.unwrap_or(member))
        });
        Hop {
            member,
            ..hop.clone()
        }
    }

    /// Where a request goes on to that failed, and whether that is somebody who was not asked yet.
    pub(crate) fn next(&mut self, failed: &Hop) -> (Hop, bool) {
        if let Some(fresh) = self.fresh() {
            return (fresh, !self.again);
        }
        if matches!(self.route, Route::Fixed) {
            return (self.repeated(failed), false);
        }
        // The view may be old: then the broker knows better who is there.
        if let Some(member) = &failed.member
            && self.inner.members.trouble().is_some()
        {
            return (
                Hop::blind(Target::Service(member.info.service.clone())),
                true,
            );
        }
        // All over again, and not where it failed just now if there is another.
        self.asked.clear();
        self.again = true;
        self.note(failed);
        match self.fresh() {
            Some(other) => (other, false),
            None => (self.repeated(failed), false),
        }
    }
}
