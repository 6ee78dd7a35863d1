//! Which budgets a request falls under, and whose row of each.
//!
//! Each budget is filed under one value that a request must have to match it: of all the values
//! that its scopes name, the one that the fewest budgets name. A request looks up its own values
//! and checks in full what it finds there. So a thousand budgets for a thousand teams cost a
//! request of one team no more than one does.

use std::collections::HashMap;

use crate::ledger::row::SubjectId;

use super::{Budget, Unset};

/// What the row that new values share beyond `max_subjects` is called where it is shown. Its id
/// is `SubjectId::OVERFLOW`, which no value of a caller has, so this text decides nothing.
pub const OVERFLOW_SUBJECT: &str = "*";

/// A condition on the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// None.
    Organization,
    /// The key belongs to this project.
    Project(usize),
    /// The request is made for this person.
    EndUser(Value),
    /// The request carries this tag.
    Tag {
        /// Name of the tag.
        key: String,
        /// Its value.
        value: Value,
    },
    /// The request is made with the key of this id.
    Key(String),
    /// A routing config of this name is passed: the one that was named, or one inside it.
    Route(String),
}

/// The value that a scope wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `*`: whatever it is, with a cap of its own.
    Any,
    /// This one.
    Exactly(String),
}

impl Value {
    pub(super) fn from_text(text: String) -> Self {
        if text == "*" { Self::Any } else { Self::Exactly(text) }
    }
}

/// What is known of a request that scopes ask for.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Index of the key's project.
    pub project: usize,
    /// Public id of the key.
    pub key_id: &'a str,
    /// Its tags, merged: each name once.
    pub tags: &'a [(String, String)],
    /// The person it is made for.
    pub end_user: Option<&'a str>,
    /// Names of the routing configs passed, the outermost and those inside, without `@`.
    pub slugs: &'a [&'a str],
}

impl<'a> Who<'a> {
    fn tag(&self, key: &str) -> Option<&'a str> {
        self.tags.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// A budget that matches, and whose row of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Its place in `Budgets`.
    pub budget: usize,
    /// The values of its `*` scopes, joined by commas, for people; empty without a `*`.
    pub subject: String,
    /// Which row.
    pub subject_id: SubjectId,
}

impl Match {
    /// The same budget's row for all values beyond `max_subjects`.
    #[must_use]
    pub fn overflow(&self) -> Self {
        Self {
            budget: self.budget,
            subject: OVERFLOW_SUBJECT.to_owned(),
            subject_id: SubjectId::OVERFLOW,
        }
    }
}

/// Could any request of that project match?
pub(super) fn can_match(budget: &Budget, project: usize) -> bool {
    budget.project.is_none_or(|only| only == project)
        && budget.scopes.iter().all(|scope| match scope {
            Scope::Project(only) => *only == project,
            _ => true,
        })
}

fn matches(budget: &Budget, who: &Who<'_>) -> bool {
    let has = |wanted: &Value, actual: Option<&str>| match wanted {
        Value::Any => actual.is_some() || budget.unset == Unset::Count,
        Value::Exactly(wanted) => actual == Some(wanted.as_str()),
    };
    can_match(budget, who.project)
        && budget.scopes.iter().all(|scope| match scope {
            Scope::Organization | Scope::Project(_) => true,
            Scope::EndUser(wanted) => has(wanted, who.end_user),
            Scope::Tag { key, value } => has(value, who.tag(key)),
            Scope::Key(id) => id == who.key_id,
            Scope::Route(slug) => who.slugs.contains(&slug.as_str()),
        })
}

/// The row of a budget that matches: made of the values of its `*` scopes, in their order. A
/// missing value and an empty one are the same subject.
fn subject(budget: &Budget, who: &Who<'_>) -> (String, SubjectId) {
    let mut values = budget.scopes.iter().filter_map(|scope| match scope {
        Scope::EndUser(Value::Any) => Some(who.end_user.unwrap_or("")),
        Scope::Tag { key, value: Value::Any } => Some(who.tag(key).unwrap_or("")),
        _ => None,
    });
    let Some(first) = values.next() else {
        return (String::new(), SubjectId::NONE);
    };
    let rest: Vec<&str> = values.collect();
    if rest.is_empty() {
        return (first.to_owned(), SubjectId::of(&[first]));
    }
    let all = [&[first], rest.as_slice()].concat();
    (all.join(","), SubjectId::of(&all))
}

/// A value that a request must have to match: what a budget may be filed under.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Place<'a> {
    Key(&'a str),
    EndUser(&'a str),
    Tag(&'a str, &'a str),
    Route(&'a str),
    Project(usize),
    /// Some end user or other.
    AnyEndUser,
    /// Some value of this tag or other.
    AnyTag(&'a str),
}

impl Place<'_> {
    /// Does it say which value, and so keep other requests away?
    fn is_exact(&self) -> bool {
        !matches!(self, Self::AnyEndUser | Self::AnyTag(_))
    }
}

fn places(budget: &Budget) -> impl Iterator<Item = Place<'_>> {
    let of_scopes = budget.scopes.iter().filter_map(|scope| match scope {
        Scope::Organization => None,
        Scope::Project(project) => Some(Place::Project(*project)),
        Scope::EndUser(Value::Exactly(id)) => Some(Place::EndUser(id)),
        Scope::Tag { key, value: Value::Exactly(value) } => Some(Place::Tag(key, value)),
        Scope::EndUser(Value::Any) => {
            (budget.unset == Unset::Skip).then_some(Place::AnyEndUser)
        }
        Scope::Tag { key, value: Value::Any } => {
            (budget.unset == Unset::Skip).then_some(Place::AnyTag(key))
        }
        Scope::Key(id) => Some(Place::Key(id)),
        Scope::Route(slug) => Some(Place::Route(slug)),
    });
    of_scopes.chain(budget.project.map(Place::Project))
}

#[derive(Debug, Default)]
struct TagIndex {
    any: Vec<usize>,
    values: HashMap<String, Vec<usize>>,
}

/// Budgets, by the one value that each is filed under.
#[derive(Debug, Default)]
pub(super) struct Index {
    everyone: Vec<usize>,
    projects: Vec<Vec<usize>>,
    keys: HashMap<String, Vec<usize>>,
    any_end_user: Vec<usize>,
    end_users: HashMap<String, Vec<usize>>,
    tags: HashMap<String, TagIndex>,
    routes: HashMap<String, Vec<usize>>,
}

impl Index {
    pub(super) fn of(budgets: &[Budget], projects: usize) -> Self {
        let mut named: HashMap<Place<'_>, usize> = HashMap::new();
        for place in budgets.iter().flat_map(places) {
            *named.entry(place).or_default() += 1;
        }
        let mut index = Self { projects: vec![Vec::new(); projects], ..Self::default() };
        for (at, budget) in budgets.iter().enumerate() {
            let place = places(budget).min_by_key(|place| {
                (!place.is_exact(), named.get(place).copied().unwrap_or_default())
            });
            index.list(place.as_ref()).push(at);
        }
        index
    }

    fn list(&mut self, place: Option<&Place<'_>>) -> &mut Vec<usize> {
        match place {
            None => &mut self.everyone,
            Some(Place::Project(project)) => &mut self.projects[*project],
            Some(Place::Key(id)) => self.keys.entry((*id).to_owned()).or_default(),
            Some(Place::AnyEndUser) => &mut self.any_end_user,
            Some(Place::EndUser(id)) => self.end_users.entry((*id).to_owned()).or_default(),
            Some(Place::AnyTag(key)) => {
                &mut self.tags.entry((*key).to_owned()).or_default().any
            }
            Some(Place::Tag(key, value)) => {
                let tag = self.tags.entry((*key).to_owned()).or_default();
                tag.values.entry((*value).to_owned()).or_default()
            }
            Some(Place::Route(slug)) => self.routes.entry((*slug).to_owned()).or_default(),
        }
    }

    pub(super) fn matching(&self, budgets: &[Budget], who: &Who<'_>, out: &mut Vec<Match>) {
        let known = out.len();
        let mut add = |list: &[usize]| {
            for &at in list {
                let budget = &budgets[at];
                if matches(budget, who) && out[..known].iter().all(|known| known.budget != at) {
                    let (subject, subject_id) = subject(budget, who);
                    out.push(Match { budget: at, subject, subject_id });
                }
            }
        };
        add(&self.everyone);
        add(self.projects.get(who.project).map_or(&[], Vec::as_slice));
        if !self.keys.is_empty() {
            add(self.keys.get(who.key_id).map_or(&[], Vec::as_slice));
        }
        if let Some(id) = who.end_user {
            add(&self.any_end_user);
            if !self.end_users.is_empty() {
                add(self.end_users.get(id).map_or(&[], Vec::as_slice));
            }
        }
        if !self.tags.is_empty() {
            for (at, (key, value)) in who.tags.iter().enumerate() {
                let Some(tag) = self.tags.get(key) else { continue };
                // Only the first of a name counts, as where the scopes are checked.
                if who.tags[..at].iter().all(|(earlier, _)| earlier != key) {
                    add(&tag.any);
                    add(tag.values.get(value).map_or(&[], Vec::as_slice));
                }
            }
        }
        if !self.routes.is_empty() {
            for (at, slug) in who.slugs.iter().enumerate() {
                // A config may be passed twice: by two ways, or as the same one further in.
                if !who.slugs[..at].contains(slug) {
                    add(self.routes.get(*slug).map_or(&[], Vec::as_slice));
                }
            }
        }
        out[known..].sort_unstable_by_key(|found| found.budget);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::super::Budgets;
    use super::super::tests::{budgets, document};
    use super::*;

    /// One budget with these scopes and further keys.
    fn scoped(scopes: Json, others: &[(&str, Json)]) -> Budgets {
        let mut document = document("a");
        document["scopes"] = scopes;
        for (key, value) in others {
            document[*key] = value.clone();
        }
        budgets([document])
    }

    fn tags(tags: &[(&str, &str)]) -> Vec<(String, String)> {
        tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    const NOBODY: Who<'_> =
        Who { project: 0, key_id: "key_1", tags: &[], end_user: None, slugs: &[] };

    fn found(budgets: &Budgets, who: &Who<'_>) -> Vec<Match> {
        let mut out = Vec::new();
        budgets.matching(who, &mut out);
        out
    }

    fn does_match(budgets: &Budgets, who: &Who<'_>) -> bool {
        !found(budgets, who).is_empty()
    }

    fn subject_of(budgets: &Budgets, who: &Who<'_>) -> (String, SubjectId) {
        let found = found(budgets, who);
        assert_eq!(found.len(), 1);
        (found[0].subject.clone(), found[0].subject_id)
    }

    #[test]
    fn the_organization_is_everybody() {
        let all = scoped(json!([{"type": "organization"}]), &[]);
        assert!(does_match(&all, &NOBODY));
        assert!(does_match(&all, &Who { project: 2, end_user: Some("eve"), ..NOBODY }));
        assert_eq!(subject_of(&all, &NOBODY), (String::new(), SubjectId::NONE));
    }

    #[test]
    fn a_project_is_found_by_its_name() {
        let search = scoped(json!([{"type": "project", "id": "search"}]), &[]);
        assert!(!does_match(&search, &NOBODY));
        assert!(does_match(&search, &Who { project: 1, ..NOBODY }));
    }

    #[test]
    fn an_end_user_is_that_one_and_nobody_else() {
        let alice = scoped(json!([{"type": "end_user", "id": "alice"}]), &[]);
        let by = |end_user| Who { end_user, ..NOBODY };
        assert!(does_match(&alice, &by(Some("alice"))));
        for other in [None, Some(""), Some("*"), Some("Alice"), Some("alice ")] {
            assert!(!does_match(&alice, &by(other)));
        }
        assert_eq!(subject_of(&alice, &by(Some("alice"))).1, SubjectId::NONE);
    }

    #[test]
    fn a_tag_is_its_name_and_its_value() {
        let ml = scoped(json!([{"type": "tag", "key": "team", "value": "ml"}]), &[]);
        let with = |wanted: &[(&str, &str)]| {
            let tags = tags(wanted);
            does_match(&ml, &Who { tags: &tags, ..NOBODY })
        };
        assert!(with(&[("env", "prod"), ("team", "ml")]));
        assert!(!with(&[("team", "ads"), ("env", "ml")]));
        assert!(!with(&[("Team", "ml")]));
        assert!(!with(&[]));
        // No request has a name twice; if one had, the first would count, here as everywhere.
        assert!(!with(&[("team", "ads"), ("team", "ml")]));
        assert!(with(&[("team", "ml"), ("team", "ads")]));
    }

    #[test]
    fn a_name_that_stands_twice_counts_once() {
        let star = json!([{"type": "tag", "key": "team", "value": "*"}]);
        let each = scoped(star, &[("unset", json!("skip"))]);
        let twice = tags(&[("team", "ml"), ("team", "ads")]);
        let (subject, _) = subject_of(&each, &Who { tags: &twice, ..NOBODY });
        assert_eq!(subject, "ml");
    }

    #[test]
    fn a_key_is_found_by_its_id_of_which_none_stands_for_all() {
        let key = scoped(json!([{"type": "key", "id": "key_1"}]), &[]);
        assert!(does_match(&key, &NOBODY));
        assert!(!does_match(&key, &Who { key_id: "key_2", ..NOBODY }));
        assert!(!does_match(&scoped(json!([{"type": "key", "id": "*"}]), &[]), &NOBODY));
    }

    #[test]
    fn a_route_is_the_outermost_or_any_that_is_passed_and_counts_once() {
        let route = scoped(json!([{"type": "route", "slug": "cheap"}]), &[]);
        let by = |slugs: &'static [&'static str]| found(&route, &Who { slugs, ..NOBODY }).len();
        assert_eq!(by(&["cheap"]), 1);
        assert_eq!(by(&["production", "inner", "cheap"]), 1);
        assert_eq!(by(&["cheap", "production", "cheap"]), 1);
        assert_eq!(by(&["production"]), 0);
        assert_eq!(by(&[]), 0);
    }

    #[test]
    fn of_several_scopes_all_must_match() {
        let both = scoped(
            json!([{"type": "tag", "key": "team", "value": "ml"}, {"type": "key", "id": "key_1"}]),
            &[],
        );
        let ml = tags(&[("team", "ml")]);
        assert!(does_match(&both, &Who { tags: &ml, ..NOBODY }));
        assert!(!does_match(&both, &NOBODY));
        assert!(!does_match(&both, &Who { tags: &ml, key_id: "key_2", ..NOBODY }));
    }

    #[test]
    fn a_budget_of_a_project_leaves_the_others_alone() {
        for scope in [
            json!({"type": "organization"}),
            json!({"type": "end_user", "id": "*"}),
            json!({"type": "key", "id": "key_1"}),
        ] {
            let of_ads = scoped(json!([scope]), &[("project", json!(2))]);
            assert!(!does_match(&of_ads, &NOBODY));
            assert!(does_match(&of_ads, &Who { project: 2, ..NOBODY }));
        }
    }

    #[test]
    fn every_value_under_a_star_has_a_row_of_its_own() {
        let each = scoped(json!([{"type": "end_user", "id": "*"}]), &[]);
        let row = |end_user| subject_of(&each, &Who { end_user, ..NOBODY });
        assert_eq!(row(Some("alice")), ("alice".to_owned(), SubjectId::of(&["alice"])));
        assert_ne!(row(Some("alice")).1, row(Some("bob")).1);
    }

    #[test]
    fn a_missing_value_is_the_empty_one_or_no_match() {
        for star in [
            json!({"type": "end_user", "id": "*"}),
            json!({"type": "tag", "key": "team", "value": "*"}),
        ] {
            let counted = scoped(json!([star]), &[]);
            let no_team = tags(&[("team", "")]);
            let empty = Who { end_user: Some(""), tags: &no_team, ..NOBODY };
            assert_eq!(subject_of(&counted, &NOBODY), (String::new(), SubjectId::of(&[""])));
            assert_eq!(subject_of(&counted, &NOBODY), subject_of(&counted, &empty));
            let skipped = scoped(json!([star]), &[("unset", json!("skip"))]);
            assert!(!does_match(&skipped, &NOBODY));
            // Sent as empty, it is a value like any other.
            assert_eq!(subject_of(&skipped, &empty).1, SubjectId::of(&[""]));
        }
    }

    #[test]
    fn no_value_of_a_caller_reaches_the_row_of_the_others_or_of_a_budget_without_a_star() {
        let each = scoped(json!([{"type": "end_user", "id": "*"}]), &[]);
        let zeros = "\0".repeat(16);
        for end_user in ["", "*", OVERFLOW_SUBJECT, zeros.as_str(), "\u{ff}\u{ff}"] {
            let (_, id) = subject_of(&each, &Who { end_user: Some(end_user), ..NOBODY });
            assert_ne!(id, SubjectId::OVERFLOW);
            assert_ne!(id, SubjectId::NONE);
            assert!(end_user.is_empty() || id != SubjectId::of(&[""]));
        }
        let shared = found(&each, &NOBODY)[0].overflow();
        assert_eq!((shared.budget, shared.subject_id), (0, SubjectId::OVERFLOW));
    }

    #[test]
    fn values_under_two_stars_are_never_mixed_up() {
        let pairs = scoped(
            json!([
                {"type": "tag", "key": "team", "value": "*"},
                {"type": "organization"},
                {"type": "end_user", "id": "*"},
            ]),
            &[],
        );
        let row = |team: &str, end_user| {
            let tags = tags(&[("team", team)]);
            subject_of(&pairs, &Who { tags: &tags, end_user, ..NOBODY })
        };
        assert_eq!(
            row("ml", Some("eve")),
            ("ml,eve".to_owned(), SubjectId::of(&["ml", "eve"]))
        );
        // Shown alike, kept apart.
        assert_eq!(row("a,b", Some("c")).0, row("a", Some("b,c")).0);
        assert_ne!(row("a,b", Some("c")).1, row("a", Some("b,c")).1);
        assert_ne!(row("", Some("a")).1, row("a", None).1);
    }

    #[test]
    fn a_disabled_and_a_shadow_budget_go_on_counting() {
        for (key, value) in [("enabled", false), ("shadow", true)] {
            let budgets = scoped(json!([{"type": "organization"}]), &[(key, json!(value))]);
            assert!(does_match(&budgets, &NOBODY));
        }
    }

    #[test]
    fn a_downgrade_adds_budgets_and_names_none_twice() {
        let mut cheap = document("cheap");
        cheap["scopes"] = json!([{"type": "route", "slug": "cheap"}]);
        let budgets = budgets([cheap, document("all")]);
        let mut out = Vec::new();
        budgets.matching(&Who { slugs: &["production"], ..NOBODY }, &mut out);
        assert_eq!(out.iter().map(|found| found.budget).collect::<Vec<_>>(), [1]);
        budgets.matching(&Who { slugs: &["production", "cheap"], ..NOBODY }, &mut out);
        assert_eq!(out.iter().map(|found| found.budget).collect::<Vec<_>>(), [1, 0]);
        budgets.matching(&Who { slugs: &["cheap"], ..NOBODY }, &mut out);
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn a_budget_is_filed_under_the_rarest_value_that_it_names() {
        let budgets = budgets((0..50).map(|number| {
            let mut document = document(&format!("user-{number}"));
            document["scopes"] = json!([
                {"type": "tag", "key": "team", "value": "ml"},
                {"type": "end_user", "id": format!("user-{number}")},
            ]);
            document["project"] = json!(0);
            document
        }));
        let index = &budgets.index;
        assert!(index.end_users.values().all(|list| list.len() == 1));
        assert!(index.tags.is_empty() && index.everyone.is_empty());
        assert!(index.projects.iter().all(Vec::is_empty));
    }
}
