//! Whether an answer is what was asked for: JSON, and such JSON as the request's schema admits.
//!
//! The schema comes from the caller and the text from a model, so what a check may take is
//! bounded: steps, depth, patterns, bytes. No reference is ever fetched. What runs into a bound is
//! not valid, as nobody has seen that it is; so is every answer to a schema that cannot be read.
//!
//! JSON Schema 2020-12 without what needs a view of several schemas at once: `unevaluated…`,
//! dynamic references, anchors, ids inside of it. `format` and the like say nothing here, as in
//! that version unless asked to. Tuples of earlier drafts are read too.

use std::collections::BTreeMap;

use crate::answers::pattern::Pattern;
use crate::answers::said::Said;
use crate::answers::value::{Decimal, Json};
use crate::json::{Cursor, Kind, Span};

/// Bytes of a schema. OpenAI's own limits stay below: 5,000 properties, 120,000 characters of names.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// What one check may take: a step is a schema at a value, a look-up, 16 bytes of a text. All of
/// them are some ten milliseconds; an answer of a hundred kilobytes takes some ten thousand.
pub const CHECK_STEPS_MAX: u64 = 1 << 18;
/// Schemas that are open at once; each level of a value may open several.
const CHECK_DEPTH_MAX: u32 = 512;
/// Different patterns of one schema.
const PATTERNS_MAX: usize = 32;

/// What an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// One JSON value.
    Json,
    /// One that the schema of the request's `response_format` admits; as `Json` without one.
    JsonSchema,
}

/// Whether an answer is what it has to be. `request_body` is the caller's, of chat.
#[must_use]
pub fn is_valid(kind: Validity, said: &Said, request_body: &[u8]) -> bool {
    if !said.json_valid || kind == Validity::Json {
        return said.json_valid;
    }
    let Some(span) = schema_span(request_body) else { return true };
    let text = &request_body[span.start..span.end];
    if text.len() > SCHEMA_BYTES_MAX {
        return false;
    }
    let (Some(schema), Some(value)) = (Json::parse(text), Json::parse(said.text.as_bytes()))
    else {
        return false;
    };
    Schema::compile(&schema).is_some_and(|schema| schema.admits(&value))
}

/// Where `response_format.json_schema.schema` stands in a body.
fn schema_span(body: &[u8]) -> Option<Span> {
    let whole = Span { start: 0, end: body.len() };
    ["response_format", "json_schema", "schema"]
        .into_iter()
        .try_fold(whole, |span, key| member_span(body, span, key))
}

/// Where the value of a member of the object at `span` stands: the last one of that key.
fn member_span(body: &[u8], span: Span, name: &str) -> Option<Span> {
    let mut cursor = Cursor::new(&body[span.start..span.end]);
    let mut found = None;
    if cursor.kind().ok()? != Kind::Object {
        return None;
    }
    let mut more = cursor.enter_object().ok()?;
    while more {
        let is_it = cursor.key().ok()?.is(name);
        let value = cursor.skip().ok()?;
        if is_it {
            found = Some(Span { start: span.start + value.start, end: span.start + value.end });
        }
        more = cursor.more_members().ok()?;
    }
    found
}

/// A place in `Schema::rules`.
type Place = usize;

/// A schema made ready, its references resolved.
struct Schema {
    rules: Vec<Rules>,
}

/// What one schema asks of one value. What is empty or None asks nothing.
#[derive(Debug, Default)]
struct Rules {
    /// The schema `false`.
    is_never: bool,
    types: Option<u8>,
    /// Of each list, sorted, one must be equal: `enum` and `const`.
    values: Vec<Vec<Json>>,
    number: NumberRules,
    text: TextRules,
    array: ArrayRules,
    object: ObjectRules,
    all: Vec<Place>,
    any: Option<Vec<Place>>,
    one: Option<Vec<Place>>,
    not: Option<Place>,
    /// `if`, `then` and `else`.
    condition: Option<(Place, Option<Place>, Option<Place>)>,
}

#[derive(Debug, Default)]
struct NumberRules {
    least: Option<Decimal>,
    most: Option<Decimal>,
    above: Option<Decimal>,
    below: Option<Decimal>,
    multiple_of: Option<Decimal>,
}

#[derive(Debug, Default)]
struct TextRules {
    size: Range,
    pattern: Option<Pattern>,
}

#[derive(Debug, Default)]
struct ArrayRules {
    size: Range,
    first: Vec<Place>,
    rest: Option<Place>,
    contains: Option<(Place, Range)>,
    is_unique: bool,
}

#[derive(Debug, Default)]
struct ObjectRules {
    size: Range,
    members: BTreeMap<String, Place>,
    patterns: Vec<(Pattern, Place)>,
    others: Option<Place>,
    names: Option<Place>,
    required: Vec<String>,
    /// Where the key is there, so must the others be.
    also_required: Vec<(String, Vec<String>)>,
    also: Vec<(String, Place)>,
}

/// How many there may be.
#[derive(Clone, Copy, Debug)]
struct Range {
    least: u64,
    most: u64,
}

impl Default for Range {
    fn default() -> Self {
        Self { least: 0, most: u64::MAX }
    }
}

impl Range {
    fn holds(self, count: usize) -> bool {
        (self.least..=self.most).contains(&(count as u64))
    }
}

const NULL: u8 = 1;
const BOOLEAN: u8 = 2;
const INTEGER: u8 = 4;
const NUMBER: u8 = 8;
const STRING: u8 = 16;
const ARRAY: u8 = 32;
const OBJECT: u8 = 64;

fn type_of(name: &str) -> Option<u8> {
    Some(match name {
        "null" => NULL,
        "boolean" => BOOLEAN,
        "integer" => INTEGER,
        // An integer is a number.
        "number" => NUMBER | INTEGER,
        "string" => STRING,
        "array" => ARRAY,
        "object" => OBJECT,
        _ => return None,
    })
}

impl Schema {
    /// Make a schema ready; None if it is none, or says what we do not understand.
    fn compile(root: &Json) -> Option<Self> {
        let mut compiler = Compiler {
            root,
            places: BTreeMap::new(),
            waiting: Vec::new(),
            patterns: BTreeMap::new(),
        };
        compiler.place(root);
        let mut rules = Vec::new();
        // A list of work and no recursion: references may chain as long as the schema is.
        while let Some(schema) = compiler.waiting.get(rules.len()).copied() {
            rules.push(compiler.rules(schema)?);
        }
        Some(Self { rules })
    }

    fn admits(&self, value: &Json) -> bool {
        let mut check = Check { rules: &self.rules, steps: CHECK_STEPS_MAX };
        check.holds(0, value, 0).unwrap_or(false)
    }
}

struct Compiler<'s> {
    root: &'s Json,
    /// Where the rules of the schema at an address are, or will be.
    places: BTreeMap<*const Json, Place>,
    /// The schemas in the order of their places.
    waiting: Vec<&'s Json>,
    patterns: BTreeMap<&'s str, Pattern>,
}

impl<'s> Compiler<'s> {
    fn place(&mut self, schema: &'s Json) -> Place {
        *self.places.entry(std::ptr::from_ref(schema)).or_insert_with(|| {
            self.waiting.push(schema);
            self.waiting.len() - 1
        })
    }

    fn rules(&mut self, schema: &'s Json) -> Option<Rules> {
        let mut rules = Rules::default();
        let members = match schema {
            Json::Bool(is_any) => {
                rules.is_never = !is_any;
                return Some(rules);
            }
            Json::Object(members) => members,
            _ => return None,
        };
        for (key, value) in members {
            self.keyword(schema, key, value, &mut rules)?;
        }
        Some(rules)
    }

    /// Read one keyword; None if it says what we do not understand. Unknown ones say nothing.
    fn keyword(
        &mut self,
        schema: &'s Json,
        key: &str,
        value: &'s Json,
        rules: &mut Rules,
    ) -> Option<()> {
        match key {
            "type" => {
                let names = match value {
                    Json::Array(names) => &names[..],
                    name => std::slice::from_ref(name),
                };
                let types: Option<Vec<u8>> =
                    names.iter().map(|name| type_of(name.text()?)).collect();
                rules.types = Some(types?.into_iter().reduce(|all, one| all | one)?);
            }
            "enum" => {
                let mut values = array(value)?.to_vec();
                values.sort_unstable();
                rules.values.push(values);
            }
            "const" => rules.values.push(vec![value.clone()]),

            "minimum" => rules.number.least = Some(value.number()?.clone()),
            "maximum" => rules.number.most = Some(value.number()?.clone()),
            "exclusiveMinimum" => rules.number.above = Some(value.number()?.clone()),
            "exclusiveMaximum" => rules.number.below = Some(value.number()?.clone()),
            "multipleOf" => {
                let part = value.number()?;
                Decimal::default().is_multiple_of(part)?;
                rules.number.multiple_of = Some(part.clone());
            }

            "minLength" => rules.text.size.least = value.number()?.to_u64()?,
            "maxLength" => rules.text.size.most = value.number()?.to_u64()?,
            "pattern" => rules.text.pattern = Some(self.pattern(value.text()?)?),

            "minItems" => rules.array.size.least = value.number()?.to_u64()?,
            "maxItems" => rules.array.size.most = value.number()?.to_u64()?,
            "uniqueItems" => rules.array.is_unique = boolean(value)?,
            "prefixItems" => rules.array.first = self.places_of(value)?,
            "items" => match value {
                Json::Array(_) => rules.array.first = self.places_of(value)?,
                _ => rules.array.rest = Some(self.place(value)),
            },
            // It says nothing but beside a tuple.
            "additionalItems" if matches!(schema.member("items"), Some(Json::Array(_))) => {
                rules.array.rest = Some(self.place(value));
            }
            "contains" => {
                let count = |key, otherwise| match schema.member(key) {
                    Some(count) => count.number()?.to_u64(),
                    None => Some(otherwise),
                };
                let range = Range {
                    least: count("minContains", 1)?,
                    most: count("maxContains", u64::MAX)?,
                };
                rules.array.contains = Some((self.place(value), range));
            }

            "minProperties" => rules.object.size.least = value.number()?.to_u64()?,
            "maxProperties" => rules.object.size.most = value.number()?.to_u64()?,
            "required" => rules.object.required = texts(value)?,
            "properties" => {
                for (name, schema) in object(value)? {
                    let place = self.place(schema);
                    rules.object.members.insert(name.clone(), place);
                }
            }
            "patternProperties" => {
                for (pattern, schema) in object(value)? {
                    let pattern = self.pattern(pattern)?;
                    rules.object.patterns.push((pattern, self.place(schema)));
                }
            }
            "additionalProperties" => rules.object.others = Some(self.place(value)),
            "propertyNames" => rules.object.names = Some(self.place(value)),
            "dependentRequired" => {
                for (name, others) in object(value)? {
                    rules.object.also_required.push((name.clone(), texts(others)?));
                }
            }
            "dependentSchemas" => {
                for (name, schema) in object(value)? {
                    rules.object.also.push((name.clone(), self.place(schema)));
                }
            }

            "allOf" => rules.all.extend(self.places_of(value)?),
            "anyOf" => rules.any = Some(self.places_of(value)?),
            "oneOf" => rules.one = Some(self.places_of(value)?),
            "not" => rules.not = Some(self.place(value)),
            "if" => {
                let then = schema.member("then").map(|schema| self.place(schema));
                let otherwise = schema.member("else").map(|schema| self.place(schema));
                rules.condition = Some((self.place(value), then, otherwise));
            }
            "$ref" => {
                let referred = self.referred(value.text()?)?;
                rules.all.push(self.place(referred));
            }

            "$id" if !std::ptr::eq(schema, self.root) => return None,
            "unevaluatedProperties"
            | "unevaluatedItems"
            | "dependencies"
            | "$dynamicRef"
            | "$recursiveRef" => return None,
            _ => {}
        }
        Some(())
    }

    fn places_of(&mut self, schemas: &'s Json) -> Option<Vec<Place>> {
        Some(array(schemas)?.iter().map(|schema| self.place(schema)).collect())
    }

    fn pattern(&mut self, text: &'s str) -> Option<Pattern> {
        if let Some(pattern) = self.patterns.get(text) {
            return Some(pattern.clone());
        }
        if self.patterns.len() == PATTERNS_MAX {
            return None;
        }
        let pattern = Pattern::compile(text)?;
        self.patterns.insert(text, pattern.clone());
        Some(pattern)
    }

    /// The schema that a reference names: this one, or a JSON pointer (RFC 6901) into it.
    fn referred(&self, reference: &str) -> Option<&'s Json> {
        let pointer = percent_decoded(reference.strip_prefix('#')?)?;
        if pointer.is_empty() {
            return Some(self.root);
        }
        pointer.strip_prefix('/')?.split('/').try_fold(self.root, |value, token| {
            let token = token.replace("~1", "/").replace("~0", "~");
            match value {
                Json::Object(members) => members.get(&token),
                Json::Array(items) => items.get(token.parse::<usize>().ok()?),
                _ => None,
            }
        })
    }
}

fn array(value: &Json) -> Option<&[Json]> {
    if let Json::Array(items) = value { Some(items) } else { None }
}

fn object(value: &Json) -> Option<&BTreeMap<String, Json>> {
    if let Json::Object(members) = value { Some(members) } else { None }
}

fn boolean(value: &Json) -> Option<bool> {
    if let Json::Bool(value) = value { Some(*value) } else { None }
}

fn texts(value: &Json) -> Option<Vec<String>> {
    array(value)?.iter().map(|text| Some(text.text()?.to_owned())).collect()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// A bound was met before the end.
struct Spent;

struct Check<'s> {
    rules: &'s [Rules],
    steps: u64,
}

impl Check<'_> {
    fn spend(&mut self, steps: u64) -> Result<(), Spent> {
        self.steps = self.steps.checked_sub(steps).ok_or(Spent)?;
        Ok(())
    }

    fn holds(&mut self, place: Place, value: &Json, depth: u32) -> Result<bool, Spent> {
        self.spend(1)?;
        if depth == CHECK_DEPTH_MAX {
            return Err(Spent);
        }
        let rules = &self.rules[place];
        if rules.is_never || !self.is_among(rules, value)? {
            return Ok(false);
        }
        let depth = depth + 1;
        let fits = match value {
            Json::Number(number) => {
                self.spend(number.steps())?;
                number_fits(&rules.number, number)
            }
            Json::Text(text) => self.text_fits(&rules.text, text)?,
            Json::Array(items) => self.array_fits(&rules.array, items, depth)?,
            Json::Object(members) => self.object_fits(&rules.object, value, members, depth)?,
            Json::Null | Json::Bool(_) => true,
        };
        Ok(fits && self.combined(rules, value, depth)?)
    }

    fn is_among(&mut self, rules: &Rules, value: &Json) -> Result<bool, Spent> {
        let kind = match value {
            Json::Null => NULL,
            Json::Bool(_) => BOOLEAN,
            Json::Number(number) if number.is_integer() => INTEGER,
            Json::Number(_) => NUMBER,
            Json::Text(_) => STRING,
            Json::Array(_) => ARRAY,
            Json::Object(_) => OBJECT,
        };
        if rules.types.is_some_and(|types| types & kind == 0) {
            return Ok(false);
        }
        for values in &rules.values {
            self.spend(size_of(value))?;
            if values.binary_search(value).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn text_fits(&mut self, rules: &TextRules, text: &str) -> Result<bool, Spent> {
        if rules.size.least > 0 || rules.size.most < u64::MAX {
            self.spend(text.len() as u64 / 16)?;
            if !rules.size.holds(text.chars().count()) {
                return Ok(false);
            }
        }
        match &rules.pattern {
            Some(pattern) => {
                self.spend(pattern.steps(text))?;
                Ok(pattern.is_match(text))
            }
            None => Ok(true),
        }
    }

    fn array_fits(
        &mut self,
        rules: &ArrayRules,
        items: &[Json],
        depth: u32,
    ) -> Result<bool, Spent> {
        if !rules.size.holds(items.len()) {
            return Ok(false);
        }
        for (index, item) in items.iter().enumerate() {
            let Some(place) = rules.first.get(index).copied().or(rules.rest) else { break };
            if !self.holds(place, item, depth)? {
                return Ok(false);
            }
        }
        if let Some((place, range)) = rules.contains {
            let mut count = 0;
            for item in items {
                count += usize::from(self.holds(place, item, depth)?);
            }
            if !range.holds(count) {
                return Ok(false);
            }
        }
        if rules.is_unique {
            for item in items {
                self.spend(size_of(item))?;
            }
            let mut sorted: Vec<&Json> = items.iter().collect();
            sorted.sort_unstable();
            return Ok(sorted.windows(2).all(|pair| pair[0] != pair[1]));
        }
        Ok(true)
    }

    fn object_fits(
        &mut self,
        rules: &ObjectRules,
        value: &Json,
        members: &BTreeMap<String, Json>,
        depth: u32,
    ) -> Result<bool, Spent> {
        self.spend(rules.required.len() as u64)?;
        if !rules.size.holds(members.len())
            || !rules.required.iter().all(|key| members.contains_key(key))
        {
            return Ok(false);
        }
        for (key, also) in &rules.also_required {
            self.spend(1 + also.len() as u64)?;
            if members.contains_key(key) && !also.iter().all(|key| members.contains_key(key)) {
                return Ok(false);
            }
        }
        for (key, place) in &rules.also {
            self.spend(1)?;
            if members.contains_key(key) && !self.holds(*place, value, depth)? {
                return Ok(false);
            }
        }
        for (key, member) in members {
            if !self.member_fits(rules, key, member, depth)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn member_fits(
        &mut self,
        rules: &ObjectRules,
        key: &str,
        member: &Json,
        depth: u32,
    ) -> Result<bool, Spent> {
        self.spend(1)?;
        if let Some(place) = rules.names
            && !self.holds(place, &Json::Text(key.to_owned()), depth)?
        {
            return Ok(false);
        }
        let mut is_named = false;
        if let Some(&place) = rules.members.get(key) {
            is_named = true;
            if !self.holds(place, member, depth)? {
                return Ok(false);
            }
        }
        for (pattern, place) in &rules.patterns {
            self.spend(pattern.steps(key))?;
            if pattern.is_match(key) {
                is_named = true;
                if !self.holds(*place, member, depth)? {
                    return Ok(false);
                }
            }
        }
        match rules.others {
            Some(place) if !is_named => self.holds(place, member, depth),
            _ => Ok(true),
        }
    }

    fn combined(&mut self, rules: &Rules, value: &Json, depth: u32) -> Result<bool, Spent> {
        for &place in &rules.all {
            if !self.holds(place, value, depth)? {
                return Ok(false);
            }
        }
        if let Some(any) = &rules.any
            && self.count(any, value, depth, 1)? == 0
        {
            return Ok(false);
        }
        if let Some(one) = &rules.one
            && self.count(one, value, depth, 2)? != 1
        {
            return Ok(false);
        }
        if let Some(place) = rules.not
            && self.holds(place, value, depth)?
        {
            return Ok(false);
        }
        if let Some((condition, then, otherwise)) = rules.condition {
            let next = if self.holds(condition, value, depth)? { then } else { otherwise };
            if let Some(place) = next {
                return self.holds(place, value, depth);
            }
        }
        Ok(true)
    }

    /// How many of these schemas hold, counted up to `enough`.
    fn count(
        &mut self,
        places: &[Place],
        value: &Json,
        depth: u32,
        enough: u32,
    ) -> Result<u32, Spent> {
        let mut count = 0;
        for &place in places {
            count += u32::from(self.holds(place, value, depth)?);
            if count == enough {
                break;
            }
        }
        Ok(count)
    }
}

fn number_fits(rules: &NumberRules, number: &Decimal) -> bool {
    let is_least = |least: &Decimal| number.compare(least).is_ge();
    let is_most = |most: &Decimal| number.compare(most).is_le();
    let is_above = |limit: &Decimal| number.compare(limit).is_gt();
    let is_below = |limit: &Decimal| number.compare(limit).is_lt();
    let is_multiple = |part: &Decimal| number.is_multiple_of(part) == Some(true);
    rules.least.as_ref().is_none_or(is_least)
        && rules.most.as_ref().is_none_or(is_most)
        && rules.above.as_ref().is_none_or(is_above)
        && rules.below.as_ref().is_none_or(is_below)
        && rules.multiple_of.as_ref().is_none_or(is_multiple)
}

/// What comparing a value takes, in steps, however often it is compared while sorting.
fn size_of(value: &Json) -> u64 {
    let bytes = |text: &str| 1 + text.len() as u64 / 16;
    match value {
        Json::Null | Json::Bool(_) => 1,
        Json::Number(number) => number.steps(),
        Json::Text(text) => bytes(text),
        Json::Array(items) => 1 + items.iter().map(size_of).sum::<u64>(),
        Json::Object(members) => {
            1 + members.iter().map(|(key, value)| bytes(key) + size_of(value)).sum::<u64>()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::answers::said::is_json;

    fn text(text: &str) -> Said {
        Said { text: text.to_owned(), json_valid: is_json(text.as_bytes()), ..Said::default() }
    }

    fn request(schema: &str) -> String {
        format!(
            r#"{{"model":"m","messages":[],"response_format":{{"type":"json_schema",
               "json_schema":{{"name":"n","strict":true,"schema":{schema}}}}}}}"#
        )
    }

    fn fits(schema: &str, value: &str) -> bool {
        is_valid(Validity::JsonSchema, &text(value), request(schema).as_bytes())
    }

    /// Each schema with values that it admits and values that it does not.
    const CASES: &[(&str, &[&str], &[&str])] = &[
        ("true", &["1", "null"], &[]),
        ("false", &[], &["1", "null", "{}"]),
        ("{}", &["1", "[{}]"], &[]),
        (
            r#"{"type":"integer"}"#,
            &["1", "-3", "1.0", "1e2"],
            &["1.5", "\"1\"", "null", "true"],
        ),
        (r#"{"type":"number"}"#, &["1", "1.5", "-0"], &["\"1\"", "[1]"]),
        (r#"{"type":["string","null"]}"#, &["\"a\"", "null"], &["1", "{}"]),
        (r#"{"type":"boolean"}"#, &["true", "false"], &["0", "null"]),
        (
            r#"{"enum":["a",1,null,{"b":[1]}]}"#,
            &["\"a\"", "1.0", "null", "{\"b\":[1e0]}"],
            &["\"b\"", "2", "{\"b\":[]}"],
        ),
        (r#"{"enum":[]}"#, &[], &["1"]),
        (r#"{"const":{"a":1,"b":2}}"#, &["{\"b\":2,\"a\":1}"], &["{\"a\":1}"]),
        (r#"{"enum":[1,2],"const":2}"#, &["2"], &["1"]),
        (r#"{"minimum":1,"maximum":2.5}"#, &["1", "2.50", "\"x\""], &["0.999", "2.51"]),
        (r#"{"exclusiveMinimum":1,"exclusiveMaximum":2}"#, &["1.5"], &["1", "2"]),
        (r#"{"maximum":9007199254740992}"#, &["9007199254740992"], &["9007199254740993"]),
        (r#"{"multipleOf":0.01}"#, &["19.99", "0", "-3", "[]"], &["0.005"]),
        (
            r#"{"minLength":2,"maxLength":3}"#,
            &["\"ab\"", "\"éé\"", "\"😀😀😀\"", "1"],
            &["\"a\"", "\"abcd\"", "\"😀\""],
        ),
        (r#"{"pattern":"^[A-Z]{2}\\d+$"}"#, &["\"AB12\"", "7"], &["\"AB\"", "\"xAB12\""]),
        (r#"{"pattern":"b"}"#, &["\"abc\""], &["\"ac\""]),
        (r#"{"format":"email","type":"string"}"#, &["\"no address\""], &["1"]),
        (r#"{"items":{"type":"integer"}}"#, &["[]", "[1,2]", "{}"], &["[1,\"a\"]"]),
        (
            r#"{"prefixItems":[{"type":"integer"}],"items":false}"#,
            &["[]", "[1]"],
            &["[1,2]", "[\"a\"]"],
        ),
        (
            r#"{"items":[{"type":"integer"}],"additionalItems":{"type":"null"}}"#,
            &["[1,null]"],
            &["[1,2]", "[null]"],
        ),
        (r#"{"additionalItems":false}"#, &["[1]"], &[]),
        (r#"{"minItems":1,"maxItems":2}"#, &["[1]", "[1,2]", "7"], &["[]", "[1,2,3]"]),
        (
            r#"{"uniqueItems":true}"#,
            &["[1,2,\"1\"]", "[]", "[[1],[2]]"],
            &["[1,1.0]", "[{\"a\":1,\"b\":2},{\"b\":2,\"a\":1}]"],
        ),
        (r#"{"uniqueItems":false}"#, &["[1,1]"], &[]),
        (r#"{"contains":{"const":1}}"#, &["[0,1]", "\"a\""], &["[]", "[0]"]),
        (
            r#"{"contains":{"const":1},"minContains":2,"maxContains":3}"#,
            &["[1,0,1]"],
            &["[1]", "[1,1,1,1]"],
        ),
        (r#"{"contains":{"const":1},"minContains":0}"#, &["[]"], &[]),
        (
            r#"{"properties":{"a":{"type":"string"}}}"#,
            &["{}", "{\"a\":\"x\",\"b\":1}", "[]"],
            &["{\"a\":1}"],
        ),
        (r#"{"required":["a","b"]}"#, &["{\"a\":1,\"b\":null}", "[]"], &["{\"a\":1}", "{}"]),
        (
            r#"{"properties":{"a":{}},"additionalProperties":false}"#,
            &["{\"a\":1}", "{}"],
            &["{\"b\":1}"],
        ),
        (
            r#"{"patternProperties":{"^x":{"type":"integer"}},"additionalProperties":{"type":"null"}}"#,
            &["{\"x1\":1,\"b\":null}"],
            &["{\"x1\":null}", "{\"b\":1}"],
        ),
        (r#"{"propertyNames":{"maxLength":2}}"#, &["{\"ab\":1}"], &["{\"abc\":1}"]),
        (
            r#"{"minProperties":1,"maxProperties":2}"#,
            &["{\"a\":1}"],
            &["{}", "{\"a\":1,\"b\":1,\"c\":1}"],
        ),
        (
            r#"{"dependentRequired":{"a":["b"]}}"#,
            &["{}", "{\"b\":1}", "{\"a\":1,\"b\":1}"],
            &["{\"a\":1}"],
        ),
        (
            r#"{"dependentSchemas":{"a":{"required":["b"]}}}"#,
            &["{}", "{\"a\":1,\"b\":1}"],
            &["{\"a\":1}"],
        ),
        (r#"{"allOf":[{"minimum":1},{"maximum":2}]}"#, &["1"], &["0", "3"]),
        (r#"{"anyOf":[{"type":"string"},{"minimum":5}]}"#, &["\"a\"", "5"], &["1"]),
        (r#"{"oneOf":[{"type":"integer"},{"minimum":2}]}"#, &["1", "2.5"], &["2", "1.5"]),
        (r#"{"not":{"type":"null"}}"#, &["1"], &["null"]),
        (
            r#"{"if":{"properties":{"a":{"const":1}}},"then":{"required":["b"]},"else":{"required":["c"]}}"#,
            &["{\"a\":1,\"b\":1}", "{\"a\":2,\"c\":1}"],
            &["{\"a\":1}", "{\"a\":2,\"b\":1}"],
        ),
        (r#"{"if":false,"then":false}"#, &["1"], &[]),
        (
            r##"{"$ref":"#/$defs/a","maximum":3,"$defs":{"a":{"minimum":1}}}"##,
            &["2"],
            &["0", "4"],
        ),
        (
            r##"{"properties":{"a":{"$ref":"#/definitions/x~1y%20z~0"}},"definitions":{"x/y z~":{"type":"null"}}}"##,
            &["{\"a\":null}"],
            &["{\"a\":1}"],
        ),
        (r##"{"anyOf":[{"type":"null"},{"$ref":"#/anyOf/0"}]}"##, &["null"], &["1"]),
        (
            r##"{"type":"object","properties":{"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["next"],"additionalProperties":false}"##,
            &["{\"next\":{\"next\":null}}"],
            &["{\"next\":{}}", "{\"next\":{\"next\":1}}"],
        ),
        (
            r#"{"$schema":"x","$id":"urn:a","title":"t","nullable":true,"x-own":[1],"type":"string"}"#,
            &["\"a\""],
            &["null"],
        ),
        (
            r#"{"properties":{"$ref":{"type":"integer"},"$id":{"type":"integer"}}}"#,
            &["{\"$ref\":1,\"$id\":2}"],
            &["{\"$ref\":\"a\"}"],
        ),
    ];

    #[test]
    fn values_are_admitted_as_the_schema_says() {
        for (schema, good, bad) in CASES {
            for value in *good {
                assert!(fits(schema, value), "{schema} should admit {value}");
            }
            for value in *bad {
                assert!(!fits(schema, value), "{schema} should not admit {value}");
            }
        }
    }

    #[test]
    fn no_answer_is_valid_where_the_schema_cannot_be_read() {
        for schema in [
            "7",
            "null",
            "[]",
            r#"{"type":"text"}"#,
            r#"{"type":[]}"#,
            r#"{"type":7}"#,
            r#"{"enum":"a"}"#,
            r#"{"minimum":"1"}"#,
            r#"{"minLength":-1}"#,
            r#"{"minLength":1.5}"#,
            r#"{"multipleOf":0}"#,
            r#"{"exclusiveMinimum":true}"#,
            r#"{"required":[1]}"#,
            r#"{"properties":[]}"#,
            r#"{"properties":{"a":7}}"#,
            r#"{"anyOf":{}}"#,
            r#"{"pattern":"(?=a)"}"#,
            r#"{"pattern":"("}"#,
            r##"{"$ref":"#/$defs/none"}"##,
            r##"{"$ref":"#name","$defs":{"a":{"$anchor":"name"}}}"##,
            r#"{"$ref":"https://example.com/schema.json"}"#,
            r#"{"$ref":"other.json#/a"}"#,
            r#"{"properties":{"a":{"$id":"b.json"}}}"#,
            r#"{"unevaluatedProperties":false}"#,
            r##"{"$dynamicRef":"#a"}"##,
            r#"{"dependencies":{"a":["b"]}}"#,
        ] {
            assert!(!fits(schema, "1"), "{schema}");
            assert!(!fits(schema, "{}"), "{schema}");
        }
    }

    #[test]
    fn without_a_schema_any_json_is_valid() {
        for body in [
            "{}",
            "",
            "not json",
            r#"{"response_format":{"type":"json_object"}}"#,
            r#"{"response_format":null}"#,
            r#"{"response_format":{"json_schema":[]}}"#,
            r#"{"messages":[{"response_format":{"json_schema":{"schema":false}}}]}"#,
        ] {
            assert!(is_valid(Validity::JsonSchema, &text("[1]"), body.as_bytes()), "{body}");
            assert!(!is_valid(Validity::JsonSchema, &text("one"), body.as_bytes()), "{body}");
        }
        assert!(is_valid(Validity::Json, &text("[1]"), request("false").as_bytes()));
        assert!(!is_valid(Validity::Json, &text(""), b""));
    }

    #[test]
    fn a_schema_that_stands_twice_is_read_as_most_readers_do() {
        let body = r#"{"response_format":{"json_schema":{"schema":false,"sch\u0065ma":true}}}"#;
        assert!(is_valid(Validity::JsonSchema, &text("1"), body.as_bytes()));
    }

    #[test]
    fn a_check_that_would_take_for_ever_ends() {
        // Each reference asks its next one twice: 2^40 ways to find that nothing fits.
        let defs: Vec<String> = (0..40)
            .map(|index| {
                let next = format!(r##"{{"$ref":"#/$defs/d{}"}}"##, index + 1);
                format!(r#""d{index}":{{"anyOf":[{next},{next}]}}"#)
            })
            .collect();
        let schema = format!(
            r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d40":{{"type":"integer"}}}}}}"##,
            defs.join(",")
        );
        assert!(!fits(&schema, "\"x\""));
        assert!(fits(&schema, "1"));
        assert!(!fits(r##"{"$ref":"#"}"##, "1"));
        assert!(!fits(r##"{"not":{"$ref":"#"}}"##, "1"));
    }

    #[test]
    fn a_chain_of_references_may_be_as_long_as_a_check_is_deep() {
        let chain = |length: usize| {
            let defs: Vec<String> = (0..length)
                .map(|index| format!(r##""d{index}":{{"$ref":"#/$defs/d{}"}}"##, index + 1))
                .collect();
            let defs = defs.join(",");
            format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{defs},"d{length}":{{"const":1}}}}}}"##)
        };
        assert!(fits(&chain(500), "1"));
        assert!(!fits(&chain(500), "2"));
        assert!(!fits(&chain(6000), "1"));
    }

    #[test]
    fn what_is_too_large_is_not_valid() {
        let padded = |bytes: usize| format!(r#"{{"title":"{}"}}"#, "x".repeat(bytes - 12));
        assert!(fits(&padded(SCHEMA_BYTES_MAX), "1"));
        assert!(!fits(&padded(SCHEMA_BYTES_MAX + 1), "1"));

        let rows = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert!(fits(r#"{"items":{"type":"integer"}}"#, &rows(50_000)));
        let slow =
            r#"{"items":{"anyOf":[{"const":1},{"const":2},{"const":3},{"type":"integer"}]}}"#;
        assert!(!fits(slow, &rows(50_000)));

        let patterns = |count: usize| {
            let all: Vec<String> =
                (0..count).map(|index| format!(r#"{{"pattern":"{index}"}}"#)).collect();
            format!(r#"{{"anyOf":[{{"type":"null"}},{}]}}"#, all.join(","))
        };
        assert!(fits(&patterns(PATTERNS_MAX), "null"));
        assert!(!fits(&patterns(PATTERNS_MAX + 1), "null"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_valid_or_not(
            body in prop::collection::vec(any::<u8>(), 0..60), value in ".{0,20}",
        ) {
            let _ = is_valid(Validity::JsonSchema, &text(&value), &body);
        }

        #[test]
        fn keywords_with_any_value_are_read_or_not(
            key in prop::sample::select(vec![
                "type", "enum", "const", "minimum", "multipleOf", "pattern", "items", "required",
                "prefixItems", "contains", "properties", "patternProperties", "anyOf", "oneOf",
                "not", "if", "then", "$ref", "dependentRequired", "propertyNames", "minItems",
            ]),
            inner in prop::sample::select(vec![
                "1", "-1", "\"a\"", "\"#\"", "[]", "[1]", "[\"a\"]", "{}", "{\"a\":{}}",
                "{\"a\":[\"b\"]}", "null", "true", "false", "[{}]", "[false,true]",
            ]),
            value in prop::sample::select(vec!["1", "\"a\"", "[1,2]", "{\"a\":1}", "null"]),
        ) {
            let schema = format!(r#"{{"{key}":{inner},"then":{inner}}}"#);
            let not = format!(r#"{{"not":{schema}}}"#);
            // What is valid is not valid turned round; what cannot be read is valid in neither.
            if key != "if" && key != "then" {
                prop_assert!(!(fits(&schema, value) && fits(&not, value)));
            }
        }
    }
}
