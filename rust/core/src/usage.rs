//! Token usage as a provider of the OpenAI protocol reports it, read into disjoint parts.
//!
//! What a provider says is untrusted: a figure that is not an integer from 0 to 2^40 voids the
//! whole report, and the parts never sum to less than any total that was reported, so that a
//! contradiction costs more, never less. Spellings beyond OpenAI's are read where their meaning
//! is documented: DeepSeek, Moonshot, Groq's `x_groq`, llama.cpp's `timings`.

use crate::json::{Cursor, Figure, JsonFault, Kind};

/// The largest figure that is believed.
pub const FIGURE_MAX: u64 = 1 << 40;

/// Tokens of one answer in disjoint parts: each token is counted in exactly one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input that was neither cached nor audio nor image.
    pub input_tokens: u64,
    /// Input read from the provider's cache.
    pub cached_tokens: u64,
    /// Input written to the provider's cache.
    pub cache_write_tokens: u64,
    /// Input written to the cache for an hour; the OpenAI protocol has none.
    pub cache_write_1h_tokens: u64,
    /// Audio input.
    pub audio_input_tokens: u64,
    /// Image input.
    pub image_input_tokens: u64,
    /// Output without reasoning and audio.
    pub output_tokens: u64,
    /// Reasoning, shown or not.
    pub reasoning_tokens: u64,
    /// Audio output.
    pub audio_output_tokens: u64,
    /// Of `output_tokens`, those that are images: they may have a price of their own.
    pub image_output_tokens: u64,
    /// Web searches that the provider did by itself.
    pub searches: u64,
    /// The service tier that the answer was billed at, where it names one.
    pub service_tier: Option<ServiceTier>,
    /// The answer says that the work stayed in one region, which may cost more.
    pub in_region: bool,
}

/// A service tier as an answer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceTier {
    /// `default` and its other names.
    Standard,
    /// `flex`, or `batch`, which costs as much.
    Flex,
    /// `priority`, or `fast`, its other name.
    Priority,
    /// `ultrafast`
    Fast,
    /// Anthropic's `speed` is `fast`.
    Speed,
    /// A name that we do not know.
    Unknown,
}

impl ServiceTier {
    /// The tier that an answer names.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        match name {
            // `scale` is paid for in advance; `auto` is the question given back.
            b"default" | b"standard" | b"standard_only" | b"on_demand" | b"auto" | b"scale"
            | b"performance" | b"" => Self::Standard,
            b"flex" | b"batch" => Self::Flex,
            b"priority" | b"fast" => Self::Priority,
            b"ultrafast" => Self::Fast,
            _ => Self::Unknown,
        }
    }
}

impl Usage {
    /// All input parts together.
    #[must_use]
    pub fn input_sum(&self) -> u64 {
        self.input_tokens
            + self.cached_tokens
            + self.cache_write_tokens
            + self.cache_write_1h_tokens
            + self.audio_input_tokens
            + self.image_input_tokens
    }

    /// All output parts together.
    #[must_use]
    pub fn output_sum(&self) -> u64 {
        self.output_tokens + self.reasoning_tokens + self.audio_output_tokens
    }

    /// Fold in a later report of the same answer, which can only raise.
    ///
    /// Each side is taken whole from one report, the one that says more, so that its parts fit
    /// together; of equal ones the later, which often adds the details.
    #[must_use]
    pub fn raised_by(self, later: Self) -> Self {
        let input = if later.input_sum() >= self.input_sum() { later } else { self };
        let output = if later.output_sum() >= self.output_sum() { later } else { self };
        Self {
            output_tokens: output.output_tokens,
            reasoning_tokens: output.reasoning_tokens,
            audio_output_tokens: output.audio_output_tokens,
            image_output_tokens: output.image_output_tokens,
            searches: self.searches.max(later.searches),
            service_tier: later.service_tier.or(self.service_tier),
            in_region: self.in_region || later.in_region,
            ..input
        }
    }
}

/// The usage in a whole answer of chat, completions or embeddings; None if there is none.
#[must_use]
pub fn usage_of_answer(body: &[u8]) -> Option<Usage> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut cursor = Cursor::new(body);
    let mut report = Report::default();
    let mut walk = || -> Result<(), JsonFault> {
        let mut more = cursor.enter_object()?;
        while more {
            let key = cursor.key()?;
            if !report.read_member(&key.key_bytes(), &mut cursor)? {
                cursor.skip()?;
            }
            more = cursor.more_members()?;
        }
        cursor.end()
    };
    walk().ok()?;
    report.usage()
}

/// The usage in an answer of which only the end is there; None if it does not stand in that.
#[must_use]
pub fn usage_of_tail(tail: &[u8]) -> Option<Usage> {
    let at = memchr::memmem::rfind(tail, b"\"usage\"")?;
    // Read as members of the outermost object: further in, it would close more than it opened.
    usage_of_answer(&[b"{", &tail[at..]].concat())
}

/// What one JSON object (an answer, or an event of a stream) says about usage.
#[derive(Debug, Default)]
pub(crate) struct Report {
    stated: Option<Usage>,
    timed: Option<Usage>,
    service_tier: Option<ServiceTier>,
    /// Whether `usage` stands there as an object, readable or not.
    pub(crate) has_object: bool,
}

impl Report {
    /// Read one top-level member if it may hold usage; false leaves its value to the caller.
    pub(crate) fn read_member(
        &mut self,
        key: &[u8],
        cursor: &mut Cursor<'_>,
    ) -> Result<bool, JsonFault> {
        match key {
            b"usage" => {
                self.has_object |= cursor.kind()? == Kind::Object;
                self.state(read_usage(cursor)?);
            }
            b"x_groq" => {
                if cursor.kind()? == Kind::Object {
                    let mut more = cursor.enter_object()?;
                    while more {
                        if cursor.key()?.is("usage") {
                            self.state(read_usage(cursor)?);
                        } else {
                            cursor.skip()?;
                        }
                        more = cursor.more_members()?;
                    }
                } else {
                    cursor.skip()?;
                }
            }
            b"timings" => self.timed = read_timings(cursor)?,
            b"service_tier" => {
                self.service_tier = read_service_tier(cursor)?.or(self.service_tier);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Usage as stated, else as timed.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let usage = self.stated.or(self.timed)?;
        Some(Usage { service_tier: usage.service_tier.or(self.service_tier), ..usage })
    }

    fn state(&mut self, usage: Option<Usage>) {
        self.stated = match (self.stated, usage) {
            (Some(earlier), Some(later)) => Some(earlier.raised_by(later)),
            (earlier, later) => later.or(earlier),
        };
    }
}

/// The figures of one report, as the provider spells them.
#[derive(Default)]
struct Figures {
    prompt: Option<u64>,
    completion: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    cache_write: Option<u64>,
    audio_input: Option<u64>,
    image_input: Option<u64>,
    reasoning: Option<u64>,
    audio_output: Option<u64>,
    image_output: Option<u64>,
    searches: Option<u64>,
    service_tier: Option<ServiceTier>,
    in_region: bool,
    is_fast: bool,
    is_void: bool,
}

fn read_service_tier(cursor: &mut Cursor<'_>) -> Result<Option<ServiceTier>, JsonFault> {
    match cursor.kind()? {
        Kind::String => Ok(Some(ServiceTier::of(&cursor.string()?.key_bytes()))),
        Kind::Null => {
            cursor.skip()?;
            Ok(None)
        }
        _ => {
            cursor.skip()?;
            Ok(Some(ServiceTier::Unknown))
        }
    }
}

/// Read a figure into its place; the larger of two, as spellings overlap.
fn read_figure(
    cursor: &mut Cursor<'_>,
    place: &mut Option<u64>,
    is_void: &mut bool,
) -> Result<(), JsonFault> {
    match cursor.figure()? {
        Figure::Count(count) if count <= FIGURE_MAX => {
            *place = Some(place.map_or(count, |other| other.max(count)));
        }
        Figure::Null => {}
        _ => *is_void = true,
    }
    Ok(())
}

fn read_usage(cursor: &mut Cursor<'_>) -> Result<Option<Usage>, JsonFault> {
    if cursor.kind()? != Kind::Object {
        cursor.skip()?;
        return Ok(None);
    }
    let mut figures = Figures::default();
    let mut more = cursor.enter_object()?;
    while more {
        let key = cursor.key()?;
        let place = match &*key.key_bytes() {
            b"prompt_tokens" => &mut figures.prompt,
            b"completion_tokens" => &mut figures.completion,
            b"total_tokens" => &mut figures.total,
            // DeepSeek's spelling, and Moonshot's.
            b"prompt_cache_hit_tokens" | b"cached_tokens" => &mut figures.cached,
            // Perplexity's spelling.
            b"num_search_queries" => &mut figures.searches,
            b"speed" if cursor.kind()? == Kind::String => {
                figures.is_fast |= cursor.string()?.is("fast");
                more = cursor.more_members()?;
                continue;
            }
            b"service_tier" => {
                figures.service_tier = read_service_tier(cursor)?;
                more = cursor.more_members()?;
                continue;
            }
            b"inference_geo" => {
                figures.in_region |= match cursor.kind()? {
                    Kind::String => !matches!(
                        &*cursor.string()?.key_bytes(),
                        b"global" | b"not_available" | b""
                    ),
                    _ => {
                        cursor.skip()?;
                        false
                    }
                };
                more = cursor.more_members()?;
                continue;
            }
            b"server_tool_use" => {
                read_server_tools(cursor, &mut figures)?;
                more = cursor.more_members()?;
                continue;
            }
            b"prompt_tokens_details" => {
                read_details(cursor, &mut figures, true)?;
                more = cursor.more_members()?;
                continue;
            }
            b"completion_tokens_details" => {
                read_details(cursor, &mut figures, false)?;
                more = cursor.more_members()?;
                continue;
            }
            _ => {
                cursor.skip()?;
                more = cursor.more_members()?;
                continue;
            }
        };
        read_figure(cursor, place, &mut figures.is_void)?;
        more = cursor.more_members()?;
    }
    Ok(figures.parts())
}

/// What the provider did by itself, as routers and Anthropic count it.
fn read_server_tools(cursor: &mut Cursor<'_>, figures: &mut Figures) -> Result<(), JsonFault> {
    if cursor.kind()? != Kind::Object {
        cursor.skip()?;
        return Ok(());
    }
    let mut more = cursor.enter_object()?;
    while more {
        if cursor.key()?.is("web_search_requests") {
            read_figure(cursor, &mut figures.searches, &mut figures.is_void)?;
        } else {
            cursor.skip()?;
        }
        more = cursor.more_members()?;
    }
    Ok(())
}

fn read_details(
    cursor: &mut Cursor<'_>,
    figures: &mut Figures,
    is_input: bool,
) -> Result<(), JsonFault> {
    if cursor.kind()? != Kind::Object {
        figures.is_void |= cursor.kind()? != Kind::Null;
        cursor.skip()?;
        return Ok(());
    }
    let mut more = cursor.enter_object()?;
    while more {
        let key = cursor.key()?;
        let place = match (&*key.key_bytes(), is_input) {
            (b"cached_tokens", true) => Some(&mut figures.cached),
            (b"cache_write_tokens", true) => Some(&mut figures.cache_write),
            (b"audio_tokens", true) => Some(&mut figures.audio_input),
            (b"image_tokens", true) => Some(&mut figures.image_input),
            (b"reasoning_tokens", false) => Some(&mut figures.reasoning),
            (b"audio_tokens", false) => Some(&mut figures.audio_output),
            (b"image_tokens", false) => Some(&mut figures.image_output),
            _ => None,
        };
        if let Some(place) = place {
            read_figure(cursor, place, &mut figures.is_void)?;
        } else {
            cursor.skip()?;
        }
        more = cursor.more_members()?;
    }
    Ok(())
}

impl Figures {
    /// Disjoint parts, or None if the report is void or says too little to charge by.
    fn parts(&self) -> Option<Usage> {
        if self.is_void {
            return None;
        }
        let (prompt, completion) = match (self.prompt, self.completion, self.total) {
            // Output may be left out only where a total says that there is no more.
            (Some(prompt), None, Some(_)) => (prompt, 0),
            (Some(prompt), Some(completion), _) => (prompt, completion),
            // Some embeddings servers give the total alone: it is all input.
            (None, None, Some(total)) => (total, 0),
            (None, Some(completion), Some(total)) => {
                (total.saturating_sub(completion), completion)
            }
            _ => return None,
        };
        let figure = |place: Option<u64>| place.unwrap_or(0);
        let cached = figure(self.cached);
        let cache_write = figure(self.cache_write);
        let reasoning = figure(self.reasoning);

        // What the total has beyond both sides. Some (xAI, Gemini) leave reasoning out of
        // `completion_tokens`, some adapters the cache out of `prompt_tokens`; what nothing
        // explains counts as output, the dearer side.
        let beyond = figure(self.total).saturating_sub(prompt + completion);
        let outside_prompt = cached + cache_write;
        let (prompt, completion) =
            if beyond > 0 && beyond == outside_prompt && beyond != reasoning {
                (prompt + beyond, completion)
            } else {
                (prompt, completion + beyond)
            };

        let audio_input = figure(self.audio_input);
        let image_input = figure(self.image_input);
        let audio_output = figure(self.audio_output);
        // Cached audio is reported as both, and so may be spoken reasoning: what fits one by
        // one but not together overlaps, and the dearer part keeps it. What does not even fit
        // alone contradicts the side's figure, and is charged beside it.
        let media = audio_input + image_input;
        let cached = without_overlap(cached, media, prompt.saturating_sub(cache_write), prompt);
        let reasoning = without_overlap(reasoning, audio_output, completion, completion);
        let output_tokens = completion.saturating_sub(reasoning + audio_output);
        Some(Usage {
            input_tokens: prompt
                .saturating_sub(cached + cache_write + audio_input + image_input),
            cached_tokens: cached,
            cache_write_tokens: cache_write,
            cache_write_1h_tokens: 0,
            audio_input_tokens: audio_input,
            image_input_tokens: image_input,
            output_tokens,
            reasoning_tokens: reasoning,
            audio_output_tokens: audio_output,
            image_output_tokens: figure(self.image_output).min(output_tokens),
            searches: figure(self.searches),
            service_tier: if self.is_fast {
                Some(ServiceTier::Speed)
            } else {
                self.service_tier
            },
            in_region: self.in_region,
        })
    }
}

/// `part` without what it shares with `other`, if both fit in `room` only by overlapping.
fn without_overlap(part: u64, other: u64, room: u64, whole: u64) -> u64 {
    if part > whole || other > whole {
        return part;
    }
    let excess = (part + other).saturating_sub(room);
    part - excess.min(part).min(other)
}

/// llama.cpp's `timings`: `prompt_n` were processed, `cache_n` came from its cache.
fn read_timings(cursor: &mut Cursor<'_>) -> Result<Option<Usage>, JsonFault> {
    if cursor.kind()? != Kind::Object {
        cursor.skip()?;
        return Ok(None);
    }
    let (mut processed, mut cached, mut predicted) = (None, None, None);
    let mut is_void = false;
    let mut more = cursor.enter_object()?;
    while more {
        let key = cursor.key()?;
        let place = match &*key.key_bytes() {
            b"prompt_n" => Some(&mut processed),
            b"cache_n" => Some(&mut cached),
            b"predicted_n" => Some(&mut predicted),
            _ => None,
        };
        if let Some(place) = place {
            read_figure(cursor, place, &mut is_void)?;
        } else {
            cursor.skip()?;
        }
        more = cursor.more_members()?;
    }
    let (Some(input_tokens), Some(output_tokens), false) = (processed, predicted, is_void)
    else {
        return Ok(None);
    };
    Ok(Some(Usage {
        input_tokens,
        cached_tokens: cached.unwrap_or(0),
        output_tokens,
        ..Usage::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(json: &str) -> Option<Usage> {
        usage_of_answer(format!("{{\"id\":\"x\",\"usage\":{json}}}").as_bytes())
    }

    #[test]
    fn the_parts_are_disjoint() {
        let read = usage(
            r#"{"prompt_tokens":20,"completion_tokens":9,"total_tokens":29,
                "prompt_tokens_details":{"cached_tokens":1,"audio_tokens":2,"cache_write_tokens":4},
                "completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":4}}"#,
        )
        .unwrap();
        assert_eq!(
            read,
            Usage {
                input_tokens: 13,
                cached_tokens: 1,
                cache_write_tokens: 4,
                audio_input_tokens: 2,
                output_tokens: 2,
                reasoning_tokens: 3,
                audio_output_tokens: 4,
                ..Usage::default()
            }
        );
        assert_eq!((read.input_sum(), read.output_sum()), (20, 9));
    }

    #[test]
    fn zero_usage_is_usage() {
        let zero = r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#;
        assert_eq!(usage(zero), Some(Usage::default()));
    }

    #[test]
    fn a_figure_that_is_no_count_voids_the_report() {
        for figure in [
            "-1",
            "-0",
            "1.0",
            "1e3",
            "\"5\"",
            "4611686018427387904",
            "1099511627777",
            "true",
            "[]",
            "{}",
        ] {
            let json = format!(
                r#"{{"prompt_tokens":1,"completion_tokens":{figure},"total_tokens":2}}"#
            );
            assert_eq!(usage(&json), None, "{figure}");
            let json = format!(
                r#"{{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{{"cached_tokens":{figure}}}}}"#
            );
            assert_eq!(usage(&json), None, "{figure}");
        }
        assert_eq!(usage(r#"{"prompt_tokens":1,"completion_tokens":NaN}"#), None);
        assert!(usage(r#"{"prompt_tokens":1099511627776,"completion_tokens":1}"#).is_some());
    }

    #[test]
    fn what_says_too_little_is_not_usage() {
        for json in [
            "null",
            "{}",
            "[]",
            "5",
            "\"x\"",
            r#"{"prompt_tokens":5}"#,
            r#"{"completion_tokens":5}"#,
            r#"{"prompt_tokens":null,"total_tokens":null}"#,
        ] {
            assert_eq!(usage(json), None, "{json}");
        }
        assert_eq!(usage_of_answer(b"[{\"usage\":{\"total_tokens\":1}}]"), None);
        assert_eq!(usage_of_answer(b"{\"usage\":{\"total_tokens\":1}} x"), None);
        assert_eq!(usage_of_answer(b"{\"usage\":{\"total_tokens\":1}"), None);
        assert_eq!(usage_of_answer(b""), None);
    }

    #[test]
    fn only_usage_of_the_answer_itself_is_read() {
        let nested = br#"{"choices":[{"usage":{"total_tokens":1}}],"x":"\"usage\":{\"total_tokens\":2}"}"#;
        assert_eq!(usage_of_answer(nested), None);
    }

    #[test]
    fn the_parts_never_sum_to_less_than_what_was_reported() {
        let lies = usage(
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":100,
                "prompt_tokens_details":{"cached_tokens":40}}"#,
        )
        .unwrap();
        assert_eq!((lies.input_tokens, lies.cached_tokens, lies.output_tokens), (0, 40, 90));
    }

    #[test]
    fn reasoning_outside_of_completion_tokens_is_counted_once() {
        let xai = usage(
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":35,
                "completion_tokens_details":{"reasoning_tokens":20}}"#,
        )
        .unwrap();
        assert_eq!((xai.input_tokens, xai.output_tokens, xai.reasoning_tokens), (10, 5, 20));
    }

    #[test]
    fn a_cache_outside_of_prompt_tokens_is_counted_once() {
        let outside = usage(
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":1015,
                "prompt_tokens_details":{"cached_tokens":1000}}"#,
        )
        .unwrap();
        assert_eq!(
            (outside.input_tokens, outside.cached_tokens, outside.output_tokens),
            (10, 1000, 5)
        );
    }

    #[test]
    fn what_overlaps_is_counted_once_as_the_dearer_part() {
        let spoken = usage(
            r#"{"prompt_tokens":20,"completion_tokens":4,"total_tokens":24,
                "prompt_tokens_details":{"cached_tokens":18,"audio_tokens":10},
                "completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":4}}"#,
        )
        .unwrap();
        assert_eq!(
            (spoken.input_tokens, spoken.cached_tokens, spoken.audio_input_tokens),
            (0, 10, 10)
        );
        assert_eq!(
            (spoken.output_tokens, spoken.reasoning_tokens, spoken.audio_output_tokens),
            (0, 0, 4)
        );
    }

    #[test]
    fn other_servers_are_read_where_they_are_clear() {
        let deepseek = usage(
            r#"{"prompt_tokens":343,"completion_tokens":58,"total_tokens":401,
                "prompt_cache_hit_tokens":256,"prompt_cache_miss_tokens":87}"#,
        )
        .unwrap();
        assert_eq!((deepseek.input_tokens, deepseek.cached_tokens), (87, 256));
        let embeddings = usage(r#"{"prompt_tokens":7,"total_tokens":7}"#).unwrap();
        assert_eq!((embeddings.input_sum(), embeddings.output_sum()), (7, 0));
        let total_only = usage(r#"{"total_tokens":7}"#).unwrap();
        assert_eq!((total_only.input_sum(), total_only.output_sum()), (7, 0));
        let llama = usage_of_answer(
            br#"{"timings":{"prompt_n":3,"cache_n":9,"predicted_n":4,"predicted_ms":1.5}}"#,
        )
        .unwrap();
        assert_eq!((llama.input_tokens, llama.cached_tokens, llama.output_tokens), (3, 9, 4));
        let groq = usage_of_answer(
            br#"{"x_groq":{"id":"r","usage":{"prompt_tokens":1,"completion_tokens":2}}}"#,
        )
        .unwrap();
        assert_eq!((groq.input_tokens, groq.output_tokens), (1, 2));
    }

    #[test]
    fn the_tier_that_was_billed_is_read_wherever_it_stands() {
        let tier = |answer: &str| {
            usage_of_answer(answer.as_bytes()).and_then(|usage| usage.service_tier)
        };
        let answer = |members: &str| {
            format!(r#"{{"usage":{{"prompt_tokens":1,"completion_tokens":1{members}"#)
        };
        for (name, read) in [
            ("default", ServiceTier::Standard),
            ("on_demand", ServiceTier::Standard),
            ("flex", ServiceTier::Flex),
            ("priority", ServiceTier::Priority),
            ("fast", ServiceTier::Priority),
            ("ultrafast", ServiceTier::Fast),
            ("tomorrow", ServiceTier::Unknown),
        ] {
            let inside = format!(r#","service_tier":"{name}"}}}}"#);
            assert_eq!(tier(&answer(&inside)), Some(read), "{name}");
            let outside = format!(r#"}},"service_tier":"{name}"}}"#);
            assert_eq!(tier(&answer(&outside)), Some(read), "{name}");
        }
        assert_eq!(tier(&answer("},\"service_tier\":null}")), None);
        assert_eq!(tier(&answer("}}")), None);
        assert_eq!(tier(&answer("},\"service_tier\":5}")), Some(ServiceTier::Unknown));
        assert_eq!(tier(&answer(r#","speed":"fast"}}"#)), Some(ServiceTier::Speed));
        assert_eq!(tier(&answer(r#","speed":"standard"}}"#)), None);
    }

    #[test]
    fn what_is_billed_beside_tokens_is_read() {
        let read = usage(
            r#"{"prompt_tokens":1,"completion_tokens":9,"inference_geo":"us",
                "server_tool_use":{"web_search_requests":2,"other":[1]},
                "completion_tokens_details":{"image_tokens":5,"reasoning_tokens":1}}"#,
        )
        .unwrap();
        assert_eq!((read.output_tokens, read.image_output_tokens), (8, 5));
        assert_eq!((read.searches, read.in_region, read.output_sum()), (2, true, 9));
        let plain = usage(
            r#"{"prompt_tokens":1,"completion_tokens":1,"inference_geo":"global",
                "num_search_queries":3,"server_tool_use":null}"#,
        )
        .unwrap();
        assert_eq!((plain.searches, plain.in_region), (3, false));
        let void = r#"{"prompt_tokens":1,"completion_tokens":1,"num_search_queries":-1}"#;
        assert_eq!(usage(void), None);
    }

    #[test]
    fn a_later_report_can_only_raise() {
        let first = Usage { input_tokens: 10, output_tokens: 50, ..Usage::default() };
        let lower = Usage { input_tokens: 1, output_tokens: 1, ..Usage::default() };
        assert_eq!(first.raised_by(lower), first);
        let detailed = Usage {
            input_tokens: 2,
            cached_tokens: 8,
            output_tokens: 5,
            reasoning_tokens: 55,
            ..Usage::default()
        };
        assert_eq!(first.raised_by(detailed), detailed);
        let mixed = Usage { input_tokens: 2, output_tokens: 70, ..Usage::default() };
        assert_eq!(
            first.raised_by(mixed),
            Usage { input_tokens: 10, output_tokens: 70, ..Usage::default() }
        );
    }
}
