//! Budgets: which of them a request falls under, and whether an attempt fits into all of these.
//!
//! Everything here is a pure function of configuration, facts of the request and balances that
//! the caller has read; the ledger keeps the balances, and the gate acts on the decisions.
//!
//! - `scope` finds the budgets that match, however many there are;
//! - `decide` goes through the four rows of the table: fit, downgrade, refuse, wait;
//! - `display` says what a refused caller is told.

pub mod decide;
pub mod display;
pub mod scope;

use std::collections::HashSet;
use std::rc::Rc;

use serde::Deserialize;

use crate::ledger::row::{Balance, BudgetId};
use crate::ledger::window::{Calendar, Period};
use crate::routing::{Flat, Node};

pub use decide::{Ask, Decision, RowState, decide, decide_together};
pub use scope::{Match, Scope, Value, Who};

const PERCENT: u128 = 100;

/// One budget as the snapshot holds it.
#[derive(Deserialize, Debug)]
pub struct BudgetDocument {
    id: String,
    name: String,
    scopes: Vec<ScopeDocument>,
    project: Option<usize>,
    cap_nusd: u64,
    period: String,
    timezone: String,
    action: Action,
    #[serde(default)]
    downgrade: Vec<Option<Node>>,
    soft_pct: u32,
    unset: Unset,
    max_subjects: u64,
    enabled: bool,
    shadow: bool,
}

#[derive(Deserialize, Debug)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ScopeDocument {
    Organization,
    Project { id: String },
    EndUser { id: String },
    Tag { key: String, value: String },
    Key { id: String },
    Route { slug: String },
}

/// What a budget does at its cap.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The request is refused.
    Block,
    /// The request goes to a cheaper target.
    Downgrade,
    /// Nothing but an event.
    WarnOnly,
}

impl Action {
    /// The public name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Downgrade => "downgrade",
            Self::WarnOnly => "warn_only",
        }
    }
}

/// What a `*` budget makes of a request without the value.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Unset {
    /// All of them share the subject of the empty value.
    Count,
    /// They do not match.
    Skip,
}

/// One budget, ready to match and to decide.
#[derive(Debug)]
pub struct Budget {
    /// Its identity in the ledger.
    pub id: BudgetId,
    /// Its name, unique in the deployment.
    pub name: String,
    /// All of them must match; at least one.
    pub scopes: Vec<Scope>,
    /// Only this project's traffic.
    pub project: Option<usize>,
    /// Above 0.
    pub cap_nusd: u64,
    /// Which window an instant lies in.
    pub calendar: Calendar,
    /// The kind of that window.
    pub period: Period,
    /// What happens at the cap.
    pub action: Action,
    /// Where a request goes instead, by project; where there is none, a downgrade blocks.
    pub downgrade: Vec<Option<Rc<Flat>>>,
    /// Of the cap, in percent: an event, no effect on traffic.
    pub soft_pct: u32,
    /// What `*` makes of a missing value.
    pub unset: Unset,
    /// Rows that `*` may make in one window, before new values share one.
    pub max_subjects: u64,
    /// One that is not goes on counting.
    pub enabled: bool,
    /// Counts and reports, never acts.
    pub shadow: bool,
}

impl Budget {
    /// May it refuse or redirect a request at all?
    #[must_use]
    pub fn is_enforcing(&self) -> bool {
        self.enabled && !self.shadow && self.action != Action::WarnOnly
    }

    /// Is it among those that headers speak of?
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.enabled && !self.shadow
    }

    /// Where a request of that project goes instead.
    #[must_use]
    pub fn downgrade_for(&self, project: usize) -> Option<&Rc<Flat>> {
        self.downgrade.get(project)?.as_ref()
    }

    /// Has `soft_pct` of what may be spent been spent?
    ///
    /// Holds do not count: they may end with less, and the event is told once.
    #[must_use]
    pub fn is_soft(&self, balance: &Balance) -> bool {
        let allowed_nusd = u128::from(self.cap_nusd) + u128::from(balance.credits_nusd);
        u128::from(balance.spent_nusd) * PERCENT >= allowed_nusd * u128::from(self.soft_pct)
    }
}

/// The public name of a period.
#[must_use]
pub fn period_name(period: Period) -> &'static str {
    match period {
        Period::Daily => "daily",
        Period::Weekly => "weekly",
        Period::Monthly => "monthly",
        Period::Total => "total",
    }
}

/// What can still be held: cap + credits − spent − held, never below 0.
#[must_use]
pub fn remaining_nusd(budget: &Budget, balance: &Balance) -> u64 {
    let allowed_nusd = u128::from(budget.cap_nusd) + u128::from(balance.credits_nusd);
    let used_nusd = u128::from(balance.spent_nusd) + u128::from(balance.held_nusd);
    u64::try_from(allowed_nusd.saturating_sub(used_nusd)).unwrap_or(u64::MAX)
}

/// All budgets, with what finds those that match.
#[derive(Debug, Default)]
pub struct Budgets {
    list: Vec<Budget>,
    index: scope::Index,
}

impl Budgets {
    /// Read the snapshot's budgets.
    ///
    /// `projects` are the names in the order of their indices; `flatten` flattens a config for
    /// one of them.
    ///
    /// # Errors
    /// A text that names the budget and what contradicts itself in it: nothing of it is used.
    pub fn compile(
        documents: Vec<BudgetDocument>,
        projects: &[&str],
        flatten: &dyn Fn(&Node, &str) -> Result<Flat, String>,
    ) -> Result<Self, String> {
        let mut names = HashSet::new();
        let mut ids = HashSet::new();
        let mut list = Vec::with_capacity(documents.len());
        for document in documents {
            let name = document.name.clone();
            let budget = document
                .compile(projects, flatten)
                .map_err(|fault| format!("budget {name}: {fault}"))?;
            // Two with one id would share their rows, and so their money.
            if !ids.insert(budget.id) || !names.insert(name.clone()) {
                return Err(format!("budget {name}: another has the same name or id"));
            }
            list.push(budget);
        }
        let index = scope::Index::of(&list, projects.len());
        Ok(Self { list, index })
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// A budget by its place, as in `Match`.
    #[must_use]
    pub fn get(&self, index: usize) -> &Budget {
        &self.list[index]
    }

    /// All of them, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Budget> {
        self.list.iter()
    }

    /// Append all budgets that match and that `out` does not name yet, in the order of the
    /// configuration.
    ///
    /// So a downgrade that leads through further routing configs adds budgets and removes none.
    /// The time grows with the matches, not with the budgets.
    pub fn matching(&self, who: &Who<'_>, out: &mut Vec<Match>) {
        if !self.list.is_empty() {
            self.index.matching(&self.list, who, out);
        }
    }
}

impl BudgetDocument {
    /// Name end users as the store does, where it keeps hashes of them only.
    pub(crate) fn hash_end_users(&mut self, hash: &dyn Fn(&str) -> String) {
        for scope in &mut self.scopes {
            if let ScopeDocument::EndUser { id } = scope
                && id != "*"
            {
                *id = hash(id);
            }
        }
    }

    fn compile(
        self,
        projects: &[&str],
        flatten: &dyn Fn(&Node, &str) -> Result<Flat, String>,
    ) -> Result<Budget, String> {
        let id = decode_id(&self.id)
            .ok_or_else(|| format!("the id {:?} is not 16 bytes of hex", self.id))?;
        if self.cap_nusd == 0 {
            return Err("the cap is 0".to_owned());
        }
        if self.scopes.is_empty() {
            return Err("it has no scope".to_owned());
        }
        if self.project.is_some_and(|project| project >= projects.len()) {
            return Err("its project does not exist".to_owned());
        }
        let period = Period::from_word(&self.period)
            .ok_or_else(|| format!("its period {:?} is unknown", self.period))?;
        let scopes = self
            .scopes
            .into_iter()
            .map(|scope| scope.compile(projects))
            .collect::<Result<Vec<_>, _>>()?;
        let downgrade = self
            .downgrade
            .iter()
            .enumerate()
            .map(|(project, node)| {
                let project = projects.get(project).copied().unwrap_or("");
                node.as_ref().map(|node| flatten(node, project).map(Rc::new)).transpose()
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|fault| format!("downgrade_to: {fault}"))?;
        let budget = Budget {
            id,
            name: self.name,
            scopes,
            project: self.project,
            cap_nusd: self.cap_nusd,
            calendar: Calendar::new(&self.timezone, period)?,
            period,
            action: self.action,
            downgrade,
            soft_pct: self.soft_pct,
            unset: self.unset,
            max_subjects: self.max_subjects,
            enabled: self.enabled,
            shadow: self.shadow,
        };
        if budget.action == Action::Downgrade {
            // A project without a place to go to is blocked at the cap; all of them, and the
            // configuration says something that it cannot mean.
            let leads_somewhere = (0..projects.len()).any(|project| {
                scope::can_match(&budget, project) && budget.downgrade_for(project).is_some()
            });
            if !leads_somewhere {
                return Err("downgrade_to leads nowhere in any project".to_owned());
            }
        }
        Ok(budget)
    }
}

impl ScopeDocument {
    fn compile(self, projects: &[&str]) -> Result<Scope, String> {
        Ok(match self {
            Self::Organization => Scope::Organization,
            Self::Project { id } => Scope::Project(
                projects
                    .iter()
                    .position(|project| *project == id)
                    .ok_or_else(|| format!("its project {id} does not exist"))?,
            ),
            Self::EndUser { id } => Scope::EndUser(Value::from_text(id)),
            Self::Tag { key, value } => Scope::Tag { key, value: Value::from_text(value) },
            Self::Key { id } => Scope::Key(id),
            Self::Route { slug } => Scope::Route(slug),
        })
    }
}

fn decode_id(text: &str) -> Option<BudgetId> {
    let digits = text.as_bytes();
    let mut id = BudgetId::default();
    if digits.len() != 2 * id.len() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(id)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Write as _;

    use serde_json::{Value, json};

    use super::*;

    pub const PROJECTS: [&str; 3] = ["default", "search", "ads"];

    /// A budget over everything that blocks, as the snapshot has it.
    pub fn document(name: &str) -> Value {
        let mut id = String::new();
        for byte in name.bytes().chain([0; 16]).take(16) {
            write!(id, "{byte:02x}").unwrap();
        }
        json!({
            "id": id, "name": name, "scopes": [{"type": "organization"}], "project": null,
            "cap_nusd": 1_000_000_000, "period": "monthly", "timezone": "UTC",
            "action": "block", "downgrade": [config(), config(), config()], "soft_pct": 80,
            "unset": "count", "max_subjects": 16_384, "enabled": true, "shadow": false,
        })
    }

    fn config() -> Value {
        let target = json!({"kind": "target", "provider": 0, "model": "small"});
        json!({"kind": "config", "strategy": "single", "children": [target]})
    }

    pub fn compiled(documents: impl IntoIterator<Item = Value>) -> Result<Budgets, String> {
        let documents = documents
            .into_iter()
            .map(serde_json::from_value)
            .collect::<Result<Vec<BudgetDocument>, _>>()
            .map_err(|fault| fault.to_string())?;
        Budgets::compile(documents, &PROJECTS, &|_, _| Ok(Flat::direct(0, "small", "small")))
    }

    pub fn budgets(documents: impl IntoIterator<Item = Value>) -> Budgets {
        compiled(documents).unwrap()
    }

    /// Why a document with this key set so is refused.
    fn refused(key: &str, value: Value) -> String {
        let mut document = document("team-ml");
        document[key] = value;
        compiled([document]).unwrap_err()
    }

    #[test]
    fn a_budget_that_contradicts_itself_is_refused_by_name() {
        assert_eq!(refused("cap_nusd", json!(0)), "budget team-ml: the cap is 0");
        assert_eq!(refused("scopes", json!([])), "budget team-ml: it has no scope");
        assert!(refused("id", json!("abc")).contains("is not 16 bytes of hex"));
        assert!(refused("id", json!("zz".repeat(16))).contains("is not 16 bytes of hex"));
        assert_eq!(refused("project", json!(3)), "budget team-ml: its project does not exist");
        let unknown = json!([{"type": "project", "id": "sales"}]);
        assert!(refused("scopes", unknown).contains("project sales does not exist"));
        assert!(
            refused("period", json!("hourly")).ends_with("its period \"hourly\" is unknown")
        );
        assert!(refused("timezone", json!("Europe/Atlantis")).starts_with("budget team-ml: "));
        assert!(refused("scopes", json!([{"type": "galaxy"}])).contains("unknown variant"));
        assert!(refused("cap_nusd", json!(-5)).contains("invalid value"));
        assert!(refused("cap_nusd", json!(0.5)).contains("invalid type"));
    }

    #[test]
    fn two_budgets_never_share_a_name_or_a_row() {
        let fault = compiled([document("a"), document("a")]).unwrap_err();
        assert_eq!(fault, "budget a: another has the same name or id");
        let mut same_id = document("b");
        same_id["id"] = document("a")["id"].clone();
        assert!(compiled([document("a"), same_id]).is_err());
    }

    #[test]
    fn a_downgrade_needs_somewhere_to_go_in_a_project_that_can_match() {
        let mut document = document("a");
        document["action"] = json!("downgrade");
        document["downgrade"] = json!([null, config(), null]);
        let all = budgets([document.clone()]);
        assert!(all.get(0).downgrade_for(0).is_none());
        assert!(all.get(0).downgrade_for(1).is_some());
        document["project"] = json!(0);
        let fault = compiled([document.clone()]).unwrap_err();
        assert_eq!(fault, "budget a: downgrade_to leads nowhere in any project");
        document["downgrade"] = json!([]);
        assert!(compiled([document]).is_err());
    }

    #[test]
    fn only_an_enabled_budget_that_is_no_shadow_and_acts_is_enforcing() {
        for (key, value, is_enforcing, is_shown) in [
            ("action", json!("block"), true, true),
            ("action", json!("downgrade"), true, true),
            ("action", json!("warn_only"), false, true),
            ("enabled", json!(false), false, false),
            ("shadow", json!(true), false, false),
        ] {
            let mut document = document("a");
            document[key] = value;
            let budgets = budgets([document]);
            let budget = budgets.get(0);
            assert_eq!((budget.is_enforcing(), budget.is_shown()), (is_enforcing, is_shown));
        }
    }

    #[test]
    fn a_budget_is_soft_from_its_percentage_of_cap_and_credits_on() {
        let budgets = budgets([document("a")]);
        let balance = |spent_nusd, credits_nusd| Balance {
            spent_nusd,
            credits_nusd,
            held_nusd: u64::MAX,
            ..Balance::default()
        };
        assert!(!budgets.get(0).is_soft(&balance(799_999_999, 0)));
        assert!(budgets.get(0).is_soft(&balance(800_000_000, 0)));
        assert!(!budgets.get(0).is_soft(&balance(800_000_000, 2)));
    }

    #[test]
    fn a_period_has_the_name_that_the_configuration_gives_it() {
        for name in ["daily", "weekly", "monthly", "total"] {
            let mut document = document("a");
            document["period"] = json!(name);
            let budgets = budgets([document]);
            assert_eq!(period_name(budgets.get(0).period), name);
            assert_eq!(budgets.get(0).calendar.window(0).end_s.is_none(), name == "total");
        }
    }

    #[test]
    fn what_remains_is_never_below_nothing() {
        let budgets = budgets([document("a")]);
        let balance = |spent_nusd, held_nusd| Balance {
            spent_nusd,
            held_nusd,
            credits_nusd: 5,
            ..Balance::default()
        };
        let remaining = |spent, held| remaining_nusd(budgets.get(0), &balance(spent, held));
        assert_eq!(remaining(0, 0), 1_000_000_005);
        assert_eq!(remaining(1_000_000_000, 4), 1);
        assert_eq!(remaining(1_000_000_000, 6), 0);
        assert_eq!(remaining(u64::MAX, u64::MAX), 0);
    }
}
