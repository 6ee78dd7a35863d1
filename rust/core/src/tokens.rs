//! How many tokens a text has: counted where OpenAI published the vocabulary, else estimated.
//!
//! A count decides money, so it is an upper bound or it is not given. Counting takes time
//! linear in the text (about 40 MB/s) and the first count with a vocabulary has to load it:
//! both are for a thread, not for the event loop, which counts at most [`LOOP_TEXT_BYTES_MAX`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bpe_openai::Tokenizer;

use crate::generated::{Piece, each_piece};
use crate::json::{Cursor, Figure, Kind, Text};
use crate::scan::Shape;
use crate::sse::{each_data, skip_empty};

/// What may be counted on the event loop: about 0.2 ms.
pub const LOOP_TEXT_BYTES_MAX: u64 = 8 << 10;

/// A published vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vocabulary {
    /// GPT-3.5, GPT-4, embeddings.
    Cl100k,
    /// GPT-4o and everything after it.
    O200k,
}

static IS_CL100K_LOADED: AtomicBool = AtomicBool::new(false);
static IS_O200K_LOADED: AtomicBool = AtomicBool::new(false);

impl Vocabulary {
    /// As OpenAI calls it, without its version of the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cl100k => "cl100k",
            Self::O200k => "o200k",
        }
    }

    /// The vocabulary that [`name`](Self::name) gives this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Cl100k, Self::O200k].into_iter().find(|vocabulary| vocabulary.name() == name)
    }

    fn loaded_flag(self) -> &'static AtomicBool {
        match self {
            Self::Cl100k => &IS_CL100K_LOADED,
            Self::O200k => &IS_O200K_LOADED,
        }
    }

    fn tokenizer(self) -> &'static Tokenizer {
        let tokenizer = match self {
            Self::Cl100k => bpe_openai::cl100k_base(),
            Self::O200k => bpe_openai::o200k_base(),
        };
        self.loaded_flag().store(true, Ordering::Release);
        tokenizer
    }
}

/// Models of `o200k`, by how their names begin; a dash or the end follows.
const O200K: [&str; 8] =
    ["gpt-4o", "chatgpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "o1", "o3", "o4"];
/// Their newest family, whose minor versions follow.
const O200K_VERSIONS: &str = "gpt-5.";
/// Models of `cl100k`, likewise.
const CL100K: [&str; 6] = [
    "gpt-4",
    "gpt-3.5-turbo",
    "text-embedding-3",
    "text-embedding-ada-002",
    "davinci-002",
    "babbage-002",
];
/// Words in the names of models that are given more than the caller's text, or other than text.
const NOT_TEXT_ALONE: [&str; 8] =
    ["search", "deep-research", "audio", "realtime", "transcribe", "tts", "image", "vision"];

/// The vocabulary of a model, where its exact one is published.
///
/// Fine-tuned models have that of the model they came from.
#[must_use]
pub fn vocabulary(vendor: &str, model: &str) -> Option<Vocabulary> {
    if vendor != "openai" {
        return None;
    }
    let model = match model.strip_prefix("ft:") {
        Some(tuned) => tuned.split(':').next().unwrap_or_default(),
        None => model,
    };
    if NOT_TEXT_ALONE.iter().any(|word| model.contains(word)) {
        return None;
    }
    let is_of = |family: &&str| {
        model.strip_prefix(*family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    if O200K.iter().any(is_of) || model.starts_with(O200K_VERSIONS) {
        return Some(Vocabulary::O200k);
    }
    CL100K.iter().any(is_of).then_some(Vocabulary::Cl100k)
}

/// Whether a count with this vocabulary begins at once.
#[must_use]
pub fn is_loaded(vocabulary: Vocabulary) -> bool {
    vocabulary.loaded_flag().load(Ordering::Acquire)
}

/// Load a vocabulary, if it is not; takes up to some tenths of a second.
pub fn load(vocabulary: Vocabulary) {
    vocabulary.tokenizer();
}

/// The tokens of a text; words that stand for special tokens are counted as plain text.
#[must_use]
pub fn count_text(text: &str, vocabulary: Vocabulary) -> u64 {
    vocabulary.tokenizer().count(text) as u64
}

/// Beside the texts of a message: its frame, role and name, with room to spare.
const MESSAGE_TOKENS: u64 = 16;
/// What stands around all of them.
const REQUEST_TOKENS: u64 = 16;

/// An upper bound, by count, of the input tokens of a request that is nothing but text.
///
/// OpenAI's formula is 3 tokens + 3 a message + 1 a role + the contents and names; newer models
/// differ by one or two, so 16 stand for each. None where no formula is public: tools, schemas,
/// images, audio, files, members that we do not know, and bodies that are not JSON.
#[must_use]
pub fn count_request(body: &[u8], shape: Shape, vocabulary: Vocabulary) -> Option<u64> {
    if std::str::from_utf8(body).is_err() {
        return None;
    }
    let mut count = Count { cursor: Cursor::new(body), vocabulary, tokens: REQUEST_TOKENS };
    count.body(shape)?;
    count.cursor.end().ok()?;
    Some(count.tokens)
}

/// Members of a body that never reach the prompt, or only choose how the answer is made.
const SETTINGS: [&[u8]; 32] = [
    b"model",
    b"stream",
    b"stream_options",
    b"max_tokens",
    b"max_completion_tokens",
    b"n",
    b"best_of",
    b"temperature",
    b"top_p",
    b"stop",
    b"seed",
    b"user",
    b"safety_identifier",
    b"metadata",
    b"store",
    b"presence_penalty",
    b"frequency_penalty",
    b"logit_bias",
    b"logprobs",
    b"top_logprobs",
    b"parallel_tool_calls",
    b"tool_choice",
    b"function_call",
    b"service_tier",
    b"reasoning_effort",
    b"verbosity",
    b"prompt_cache_key",
    b"prompt_cache_retention",
    b"prompt_cache_options",
    b"echo",
    b"dimensions",
    b"encoding_format",
];

struct Count<'b> {
    cursor: Cursor<'b>,
    vocabulary: Vocabulary,
    tokens: u64,
}

/// None: no bound by count. A fault in the grammar is none as well, since `scan` reports it.
impl<'b> Count<'b> {
    fn body(&mut self, shape: Shape) -> Option<()> {
        let mut more = self.cursor.enter_object().ok()?;
        while more {
            let key = self.cursor.key().ok()?;
            match (&*key.key_bytes(), shape) {
                (b"messages", Shape::Chat) => self.messages()?,
                (b"prompt", Shape::Completions) | (b"input", Shape::Embeddings) => {
                    self.prompts()?;
                }
                (b"response_format", _) => self.response_format()?,
                (b"modalities", _) => self.modalities()?,
                (name, _) if name.starts_with(b"mlx:") || SETTINGS.contains(&name) => {
                    self.cursor.skip().ok()?;
                }
                _ => self.nothing()?,
            }
            more = self.cursor.more_members().ok()?;
        }
        Some(())
    }

    /// Move over a value that says nothing; any other is beyond the formula.
    fn nothing(&mut self) -> Option<()> {
        skip_empty(&mut self.cursor).ok()?.then_some(())
    }

    fn text(&mut self) -> Option<Text<'b>> {
        self.cursor.string().ok()
    }

    fn add_text(&mut self) -> Option<()> {
        let text = self.text()?.decode().ok()?;
        self.tokens += count_text(&text, self.vocabulary);
        Some(())
    }

    /// A string that must be one of these.
    fn one_of(&mut self, words: &[&str]) -> Option<()> {
        let text = self.text()?;
        words.iter().any(|word| text.is(word)).then_some(())
    }

    fn messages(&mut self) -> Option<()> {
        let mut more = self.cursor.enter_array().ok()?;
        while more {
            self.tokens += MESSAGE_TOKENS;
            self.message()?;
            more = self.cursor.more_elements().ok()?;
        }
        Some(())
    }

    fn message(&mut self) -> Option<()> {
        let mut more = self.cursor.enter_object().ok()?;
        while more {
            let key = self.cursor.key().ok()?;
            let kind = self.cursor.kind().ok()?;
            match (&*key.key_bytes(), kind) {
                (b"role", _) => self.one_of(&["system", "developer", "user", "assistant"])?,
                (b"content" | b"name" | b"refusal", Kind::String) => self.add_text()?,
                (b"content", Kind::Array) => self.parts()?,
                _ => self.nothing()?,
            }
            more = self.cursor.more_members().ok()?;
        }
        Some(())
    }

    /// The parts of a content. Nobody says whether their texts are put together before they are
    /// taken apart, and neither way is always the dearer one.
    fn parts(&mut self) -> Option<()> {
        let before = self.tokens;
        let mut together = String::new();
        let mut texts = 0;
        let mut more = self.cursor.enter_array().ok()?;
        while more {
            self.tokens += MESSAGE_TOKENS;
            let mut more_fields = self.cursor.enter_object().ok()?;
            while more_fields {
                match &*self.cursor.key().ok()?.key_bytes() {
                    b"type" => self.one_of(&["text", "refusal"])?,
                    b"text" | b"refusal" => {
                        let text = self.text()?.decode().ok()?;
                        self.tokens += count_text(&text, self.vocabulary);
                        together.push_str(&text);
                        texts += 1;
                    }
                    _ => self.nothing()?,
                }
                more_fields = self.cursor.more_members().ok()?;
            }
            more = self.cursor.more_elements().ok()?;
        }
        if texts > 1 {
            let frames = MESSAGE_TOKENS * texts;
            let joined = before + frames + count_text(&together, self.vocabulary);
            self.tokens = self.tokens.max(joined);
        }
        Some(())
    }

    /// One prompt or several, each a text or an array of tokens.
    fn prompts(&mut self) -> Option<()> {
        match self.cursor.kind().ok()? {
            Kind::String => self.add_text()?,
            Kind::Array => {
                let mut more = self.cursor.enter_array().ok()?;
                while more {
                    match self.cursor.kind().ok()? {
                        Kind::String => {
                            self.tokens += MESSAGE_TOKENS;
                            self.add_text()?;
                        }
                        Kind::Number => self.token()?,
                        Kind::Array => {
                            self.tokens += MESSAGE_TOKENS;
                            let mut more_tokens = self.cursor.enter_array().ok()?;
                            while more_tokens {
                                self.token()?;
                                more_tokens = self.cursor.more_elements().ok()?;
                            }
                        }
                        _ => return None,
                    }
                    more = self.cursor.more_elements().ok()?;
                }
            }
            _ => self.nothing()?,
        }
        Some(())
    }

    fn token(&mut self) -> Option<()> {
        let Figure::Count(_) = self.cursor.figure().ok()? else { return None };
        self.tokens += 1;
        Some(())
    }

    fn response_format(&mut self) -> Option<()> {
        if self.cursor.kind().ok()? != Kind::Object {
            return self.nothing();
        }
        let mut more = self.cursor.enter_object().ok()?;
        while more {
            if self.cursor.key().ok()?.is("type") {
                self.one_of(&["text", "json_object"])?;
            } else {
                self.nothing()?;
            }
            more = self.cursor.more_members().ok()?;
        }
        Some(())
    }

    fn modalities(&mut self) -> Option<()> {
        if self.cursor.kind().ok()? != Kind::Array {
            return self.nothing();
        }
        let mut more = self.cursor.enter_array().ok()?;
        while more {
            self.one_of(&["text"])?;
            more = self.cursor.more_elements().ok()?;
        }
        Some(())
    }
}

/// The tokens of what a provider generated and we relayed of an answer that ended early.
///
/// `body` must be all that came of it, as it came. Counted where the vocabulary is exact and
/// loaded and the text has at most [`LOOP_TEXT_BYTES_MAX`] bytes; else a token a byte of text.
/// Each call of a tool adds 16 for its frame, which no text shows.
#[must_use]
pub fn relayed_tokens(body: &[u8], is_sse: bool, vocabulary: Option<Vocabulary>) -> u64 {
    let vocabulary = vocabulary.filter(|&vocabulary| is_loaded(vocabulary));
    let (mut bytes, mut frames) = (0, 0);
    let mut texts = Texts::default();
    let mut look_at = |data: &[u8]| {
        each_piece(data, |piece| {
            bytes += piece.text_len();
            frames += piece.frame_tokens();
            if vocabulary.is_some() && bytes <= LOOP_TEXT_BYTES_MAX {
                texts.add(&piece);
            }
        });
    };
    if is_sse {
        each_data(body, &mut look_at);
    } else {
        look_at(body);
    }
    match vocabulary {
        Some(vocabulary) if bytes <= LOOP_TEXT_BYTES_MAX => texts
            .whole
            .iter()
            .map(|text| count_text(&String::from_utf8_lossy(text), vocabulary))
            .fold(frames, u64::saturating_add),
        _ => frames + bytes,
    }
}

/// The texts of an answer, put together from their pieces.
#[derive(Default)]
struct Texts {
    whole: Vec<Vec<u8>>,
    /// Which of them belongs where: choice, part, field.
    places: BTreeMap<(u64, u64, Vec<u8>), usize>,
    /// Where the last piece belonged, as the next mostly belongs there too.
    last: Option<(u64, u64, Vec<u8>, usize)>,
}

impl Texts {
    fn add(&mut self, piece: &Piece<'_>) {
        let at = match &self.last {
            Some((choice, part, field, at))
                if (*choice, *part, field.as_slice())
                    == (piece.choice, piece.part, piece.field) =>
            {
                *at
            }
            _ => {
                let field = piece.field.to_vec();
                let place = (piece.choice, piece.part, field.clone());
                let at = *self.places.entry(place).or_insert(self.whole.len());
                self.last = Some((piece.choice, piece.part, field, at));
                at
            }
        };
        if at == self.whole.len() {
            self.whole.push(Vec::new());
        }
        self.whole[at].extend_from_slice(&piece.text());
    }
}

/// Thousandths, so that no figure here needs a fraction.
const MILLI: u64 = 1_000;
/// Bytes a token of what people send, with a vocabulary as good as `o200k`.
const START: u64 = 4 * MILLI;
/// No report moves the ratio out of these: a token of a language has at least a quarter of a
/// byte and at most 16 on the whole, whatever a provider says.
const RATIO_MIN: u64 = MILLI / 4;
const RATIO_MAX: u64 = 16 * MILLI;
/// A report counts a sixteenth: some twenty requests after a change it is learnt.
const WEIGHT: u64 = 16;
const OVERHEAD_A_MESSAGE: u64 = 10;
const OVERHEAD: u64 = 30;

/// How many bytes of a body make one input token of one model, as its provider reports them.
///
/// For estimates only, which may be wrong in both directions: never for what is held or charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    milli: u64,
}

impl Ratio {
    /// Before anything is known of a model: what was measured for its vendor.
    #[must_use]
    pub fn start(vendor: &str, model: &str) -> Self {
        let milli = match vendor {
            // Tokens against those of `o200k`: the newer tokenizer 1.6, the older 1.3.
            "anthropic" if has_old_claude_tokenizer(model) => START * 10 / 13,
            "anthropic" => START * 10 / 16,
            "google" => START * 10 / 12,
            _ => START,
        };
        Self { milli }
    }

    /// Take in what one request of so many bytes and messages was reported to be.
    pub fn learn(&mut self, bytes: u64, messages: u32, input_tokens: u64) {
        let overhead = overhead(messages);
        // Of a short prompt most is overhead, which tells nothing of its text.
        if input_tokens <= 2 * overhead {
            return;
        }
        let seen = (bytes.saturating_mul(MILLI) / (input_tokens - overhead))
            .clamp(RATIO_MIN, RATIO_MAX);
        self.milli = (self.milli * (WEIGHT - 1) + seen).div_ceil(WEIGHT);
    }

    /// Thousandths of a byte a token.
    #[must_use]
    pub fn milli(self) -> u64 {
        self.milli
    }
}

fn overhead(messages: u32) -> u64 {
    OVERHEAD + OVERHEAD_A_MESSAGE * u64::from(messages)
}

/// Whether a Claude still has the tokenizer of before Opus 4.7 and the models with 5.
fn has_old_claude_tokenizer(model: &str) -> bool {
    const OLD: [&str; 11] = [
        "claude-2",
        "claude-instant",
        "claude-3",
        "claude-opus-4-0",
        "claude-opus-4-1",
        "claude-opus-4-2",
        "claude-opus-4-5",
        "claude-opus-4-6",
        "claude-sonnet-4",
        "claude-haiku-4",
        "claude-4",
    ];
    OLD.iter().any(|family| model.starts_with(family))
}

/// What a body of so many bytes and messages will probably be reported as.
#[must_use]
pub fn estimate(bytes: u64, messages: u32, ratio: Ratio) -> u64 {
    (bytes.saturating_mul(MILLI) / ratio.milli).saturating_add(overhead(messages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_models_whose_vocabulary_is_published_have_one() {
        for (model, name) in [
            ("gpt-4o-mini", Some("o200k")),
            ("gpt-4.1-nano-2025-04-14", Some("o200k")),
            ("gpt-5.6", Some("o200k")),
            ("gpt-5-mini", Some("o200k")),
            ("o3", Some("o200k")),
            ("ft:gpt-4o-mini-2024-07-18:acme::x1", Some("o200k")),
            ("ft:gpt-3.5-turbo-0125:acme:search:x1", Some("cl100k")),
            ("gpt-4", Some("cl100k")),
            ("gpt-4-turbo-2024-04-09", Some("cl100k")),
            ("text-embedding-3-small", Some("cl100k")),
            ("gpt-4.7", None),
            ("gpt-40", None),
            ("gpt-6", None),
            ("o30", None),
            ("gpt-4o-search-preview", None),
            ("gpt-4o-audio-preview", None),
            ("gpt-4-vision-preview", None),
            ("claude-sonnet-4-5", None),
            ("", None),
            ("ft:", None),
        ] {
            assert_eq!(vocabulary("openai", model).map(Vocabulary::name), name, "{model}");
        }
        assert_eq!(vocabulary("openrouter", "gpt-4o"), None);
    }

    #[test]
    fn a_vocabulary_is_loaded_once_it_was_used() {
        load(Vocabulary::Cl100k);
        assert!(is_loaded(Vocabulary::Cl100k));
        assert_eq!(count_text("Hello, world!", Vocabulary::Cl100k), 4);
        assert_eq!(count_text("Hello, world!", Vocabulary::O200k), 4);
        assert!(is_loaded(Vocabulary::O200k));
        assert_eq!(Vocabulary::from_name("o200k"), Some(Vocabulary::O200k));
        assert_eq!(Vocabulary::from_name("p50k"), None);
    }

    fn count(body: &str) -> Option<u64> {
        count_request(body.as_bytes(), Shape::Chat, Vocabulary::O200k)
    }

    #[test]
    fn texts_are_counted_as_they_are_meant() {
        let plain = count(r#"{"messages":[{"role":"user","content":"Hello, world!"}]}"#);
        assert_eq!(plain, Some(16 + 16 + 4));
        let escaped =
            count(r#"{"m\u0065ssages":[{"role":"us\u0065r","content":"H\u0065llo, world!"}]}"#);
        assert_eq!(escaped, plain);
        let named =
            count(r#"{"messages":[{"role":"user","name":"Hello","content":"Hello, world!"}]}"#);
        assert_eq!(named, Some(16 + 16 + 5));
        let twice = r#""messages":[{"role":"user","content":"Hello, world!"}]"#;
        assert_eq!(count(&format!("{{{twice},{twice}}}")), Some(16 + 2 * (16 + 4)));
    }

    #[test]
    fn parts_count_as_the_dearer_of_apart_and_together() {
        let parts = |texts: [&str; 2]| {
            let [a, b] = texts.map(|text| format!(r#"{{"type":"text","text":"{text}"}}"#));
            count(&format!(r#"{{"messages":[{{"role":"user","content":[{a},{b}]}}]}}"#))
        };
        let frames = 4 * 16;
        assert_eq!(parts(["Hello, ", "world!"]), Some(frames + 5));
        // Apart these are a token each; together the run of blanks is split as well.
        assert_eq!(count_text("  23", Vocabulary::O200k), 3);
        assert_eq!(parts(["  ", "23"]), Some(frames + 3));
    }

    #[test]
    fn what_has_no_formula_has_no_count() {
        let message = |member: &str| {
            format!(r#"{{"messages":[{{"role":"user","content":"a",{member}}}]}}"#)
        };
        for body in [
            r#"{"messages":[{"role":"tool","content":"a"}]}"#.to_owned(),
            r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":"x"}]}]}"#
                .to_owned(),
            r#"{"messages":[{"role":"user","content":"\ud800"}]}"#.to_owned(),
            r#"{"messages":[],"tools":[{"type":"function"}]}"#.to_owned(),
            r#"{"messages":[],"functions":[{}]}"#.to_owned(),
            r#"{"messages":[],"response_format":{"type":"json_schema","json_schema":{}}}"#
                .to_owned(),
            r#"{"messages":[],"modalities":["text","audio"]}"#.to_owned(),
            r#"{"messages":[],"prediction":{"type":"content","content":"a"}}"#.to_owned(),
            r#"{"messages":[],"web_search_options":{"x":1}}"#.to_owned(),
            r#"{"messages":[],"unknown":1}"#.to_owned(),
            r#"{"messages":"a"}"#.to_owned(),
            r#"{"messages":["a"]}"#.to_owned(),
            r#"{"messages":[]"#.to_owned(),
            r#"{"messages":[]}x"#.to_owned(),
            r#"{"prompt":"a"}"#.to_owned(),
            message(r#""tool_calls":[{"id":"x"}]"#),
            message(r#""audio":{"id":"x"}"#),
            message(r#""function_call":{"name":"x"}"#),
        ] {
            assert_eq!(count(&body), None, "{body}");
        }
        assert_eq!(count_request(b"{\"user\":\"\xff\"}", Shape::Chat, Vocabulary::O200k), None);
        let settings = r#"{"messages":[],"tools":[],"temperature":1,"mlx:tags":{"a":"b"},
            "response_format":{"type":"json_object"},"modalities":["text"],"stop":["x"]}"#;
        assert_eq!(count(settings), Some(16));
        assert!(count(&message(r#""tool_calls":null,"refusal":null,"audio":null"#)).is_some());
    }

    #[test]
    fn prompts_and_inputs_may_be_texts_or_tokens() {
        let count =
            |body: &str, shape| count_request(body.as_bytes(), shape, Vocabulary::Cl100k);
        let completions =
            |prompt| count(&format!(r#"{{"prompt":{prompt}}}"#), Shape::Completions);
        assert_eq!(completions(r#""Hello, world!""#), Some(16 + 4));
        assert_eq!(
            completions(r#"["Hello, world!","Hello, world!"]"#),
            Some(16 + 2 * (16 + 4))
        );
        assert_eq!(completions("[1,2,3]"), Some(16 + 3));
        assert_eq!(completions("[[1,2],[3]]"), Some(16 + 2 * 16 + 3));
        assert_eq!(completions("null"), Some(16));
        for odd in ["[1.5]", "[-1]", "[[\"a\"]]", "7", "{\"a\":1}", "[null]"] {
            assert_eq!(completions(odd), None, "{odd}");
        }
        let suffix = r#"{"prompt":"a","suffix":"b"}"#;
        assert_eq!(count(suffix, Shape::Completions), None);
        let input = r#"{"input":"Hello, world!","dimensions":8}"#;
        assert_eq!(count(input, Shape::Embeddings), Some(16 + 4));
    }

    const CUT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}]}\n\n\
        data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"wor\"}}]}\r\n\r\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"}}]}\r\r\
        : ping\n\n\
        data: {\"choices\":\ndata: [{\"index\":1,\"delta\":{\"content\":\"ld\"}}]}\n\n\
        event: error\ndata: {\"message\":\"no\"}\n\n\
        data: [DONE]\n\n";

    #[test]
    fn what_was_relayed_is_counted_where_that_is_exact() {
        load(Vocabulary::O200k);
        let o200k = Some(Vocabulary::O200k);
        assert_eq!(relayed_tokens(CUT.as_bytes(), true, o200k), 2);
        assert_eq!(relayed_tokens(CUT.as_bytes(), true, None), 10);
        let half = &CUT[..=CUT.find("lo\"").unwrap()];
        assert_eq!(relayed_tokens(half.as_bytes(), true, None), 7);
        let unary = br#"{"id":"c","choices":[{"message":{"content":"Hello, wor"#;
        assert_eq!(relayed_tokens(unary, false, o200k), 3);
        assert_eq!(relayed_tokens(unary, false, None), 10);
        assert_eq!(relayed_tokens(b"", true, o200k), 0);
    }

    #[test]
    fn a_long_text_is_not_counted_on_the_loop() {
        load(Vocabulary::O200k);
        let body = |bytes: usize| {
            format!(r#"{{"choices":[{{"message":{{"content":"{}"}}}}]}}"#, "a".repeat(bytes))
        };
        let o200k = Some(Vocabulary::O200k);
        assert!(relayed_tokens(body(8192).as_bytes(), false, o200k) < 4096);
        assert_eq!(relayed_tokens(body(8193).as_bytes(), false, o200k), 8193);
    }

    #[test]
    fn a_ratio_moves_to_what_is_reported_and_no_lie_takes_it_far() {
        let start = Ratio::start("openai", "gpt-4o");
        assert_eq!(start.milli(), 4000);
        assert_eq!(Ratio::start("anthropic", "claude-opus-4-7").milli(), 2500);
        assert_eq!(Ratio::start("anthropic", "claude-sonnet-4-6").milli(), 3076);
        assert_eq!(Ratio::start("google", "gemini-3-pro").milli(), 3333);
        assert_eq!(estimate(4_000, 2, start), 1_050);

        let mut ratio = start;
        for _ in 0..200 {
            ratio.learn(20_000, 1, 10_040);
        }
        assert!((2_000..=2_015).contains(&ratio.milli()), "{ratio:?}");
        for _ in 0..200 {
            ratio.learn(10, 1, 1 << 40);
        }
        assert!((250..=265).contains(&ratio.milli()), "{ratio:?}");
        for _ in 0..2_000 {
            ratio.learn(u64::MAX, 1, 1_000);
        }
        assert!((15_985..=16_000).contains(&ratio.milli()), "{ratio:?}");
        let before = ratio;
        ratio.learn(50, 1, 80);
        ratio.learn(0, u32::MAX, 0);
        assert_eq!(ratio, before);
        assert!(estimate(u64::MAX, u32::MAX, ratio) > 0);
    }
}
