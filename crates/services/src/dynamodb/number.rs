//! DynamoDB numbers: 38 significant decimal digits, magnitude 1E-130 to 9.99…E+125, exact.
//!
//! Invariants
//!   1. A `Number` is normalised: no trailing zeros in its coefficient, one zero. Equal values are equal structs.
//!   2. `encode` is order-preserving and self-delimiting: encoded bytes sort as the values do, and nothing after the
//!      end byte is read by `decode`.
//!   3. Arithmetic is exact or refused; nothing is ever rounded.
//!
//! | part     | bytes                                                                              |
//! |----------|------------------------------------------------------------------------------------|
//! | sign     | `01` negative, `02` zero (and nothing follows), `03` positive                      |
//! | exponent | of the first digit, plus 130: one byte                                             |
//! | digits   | two a byte, plus one (`01`..`64`), then `00`                                       |
//!
//! The exponent and digits of a negative number are inverted bit by bit.

use std::cmp::Ordering;
use std::fmt;

use bigdecimal::BigDecimal;
use bigdecimal::num_bigint::BigInt;
use serde::ser::{Serialize, Serializer};

/// Most significant digits.
const DIGITS_MAX: u32 = 38;
/// Highest exponent of the first digit.
const EXPONENT_MAX: i32 = 125;
/// Lowest exponent of the first digit.
const EXPONENT_MIN: i32 = -130;
/// More text than any number that could be meant; longer texts are refused unread.
const TEXT_BYTES_MAX: usize = 1_024;

/// A decimal number: `±coefficient × 10^exponent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Number {
    negative: bool,
    coefficient: u128,
    exponent: i32,
}

/// Why something is not a number that a table can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NumberError {
    /// Not a number at all.
    #[error("The parameter cannot be converted to a numeric value: {0}")]
    Text(String),
    /// An empty text.
    #[error("The parameter cannot be converted to a numeric value")]
    Empty,
    /// Too precise.
    #[error("Attempting to store more than 38 significant digits in a Number")]
    Digits,
    /// Too large.
    #[error("Number overflow. Attempting to store a number with magnitude larger than supported range")]
    Overflow,
    /// Too small.
    #[error("Number underflow. Attempting to store a number with magnitude smaller than supported range")]
    Underflow,
}

impl Number {
    /// Zero.
    pub(super) const ZERO: Self = Self { negative: false, coefficient: 0, exponent: 0 };

    /// Reads decimal text: sign, digits with an optional point, optional exponent.
    pub(super) fn parse(text: &str) -> Result<Self, NumberError> {
        if text.is_empty() {
            return Err(NumberError::Empty);
        }
        let refuse = || NumberError::Text(text.into());
        if text.len() > TEXT_BYTES_MAX {
            return Err(refuse());
        }
        let (negative, unsigned) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
            Some(at) => (&unsigned[..at], parse_exponent(&unsigned[at + 1..]).ok_or_else(refuse)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.len() + fraction.len() == 0 || !digits_only(whole) || !digits_only(fraction) {
            return Err(refuse());
        }
        let scale = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
        Self::from_digits(negative, whole.bytes().chain(fraction.bytes()), exponent - scale)
    }

    fn from_digits(negative: bool, digits: impl Iterator<Item = u8>, exponent: i64) -> Result<Self, NumberError> {
        let digits: Vec<u8> = digits.map(|byte| byte - b'0').skip_while(|digit| *digit == 0).collect();
        let Some(last) = digits.iter().rposition(|digit| *digit != 0) else {
            return Ok(Self::ZERO);
        };
        let dropped = digits.len() - 1 - last;
        let significant = &digits[..=last];
        let first_exponent = exponent.saturating_add(i64::try_from(digits.len()).unwrap_or(i64::MAX) - 1);
        if first_exponent > i64::from(EXPONENT_MAX) {
            return Err(NumberError::Overflow);
        }
        if first_exponent < i64::from(EXPONENT_MIN) {
            return Err(NumberError::Underflow);
        }
        if significant.len() > DIGITS_MAX as usize {
            return Err(NumberError::Digits);
        }
        let coefficient = significant.iter().fold(0u128, |sum, digit| sum * 10 + u128::from(*digit));
        let exponent = exponent + i64::try_from(dropped).unwrap_or(i64::MAX);
        Ok(Self { negative, coefficient, exponent: i32::try_from(exponent).unwrap_or(i32::MAX) })
    }

    /// A small whole number.
    pub(super) fn from_u64(number: u64) -> Self {
        Self::normalised(false, u128::from(number), 0).unwrap_or(Self::ZERO)
    }

    /// The smallest whole number that is not below it, if it is one of 64 bits and not negative.
    pub(super) fn ceil(&self) -> Option<u64> {
        if self.negative {
            return None;
        }
        let scale = 10u128.checked_pow(self.exponent.unsigned_abs());
        let whole = match scale {
            Some(scale) if self.exponent >= 0 => self.coefficient.checked_mul(scale)?,
            Some(scale) => self.coefficient.div_ceil(scale),
            None if self.exponent >= 0 && self.coefficient > 0 => return None,
            None => u128::from(self.coefficient > 0),
        };
        u64::try_from(whole).ok()
    }

    /// The same value as a whole number of 64 bits, if it is one.
    pub(super) fn whole(&self) -> Option<i64> {
        let scale = 10_i64.checked_pow(u32::try_from(self.exponent).ok()?)?;
        let whole = i64::try_from(self.coefficient).ok()?.checked_mul(scale)?;
        Some(if self.negative { -whole } else { whole })
    }

    fn normalised(negative: bool, mut coefficient: u128, mut exponent: i32) -> Result<Self, NumberError> {
        if coefficient == 0 {
            return Ok(Self::ZERO);
        }
        // Nearly all fit in 64 bits, which are divided many times faster.
        if let Ok(mut small) = u64::try_from(coefficient) {
            while small.is_multiple_of(10) {
                small /= 10;
                exponent += 1;
            }
            coefficient = u128::from(small);
        }
        while coefficient.is_multiple_of(10) {
            coefficient /= 10;
            exponent += 1;
        }
        let digits = coefficient.ilog10() + 1;
        let first = exponent + digits.cast_signed() - 1;
        if first > EXPONENT_MAX {
            Err(NumberError::Overflow)
        } else if first < EXPONENT_MIN {
            Err(NumberError::Underflow)
        } else if digits > DIGITS_MAX {
            Err(NumberError::Digits)
        } else {
            Ok(Self { negative, coefficient, exponent })
        }
    }

    /// Significant digits; zero has none.
    pub(super) fn digits(&self) -> u32 {
        self.coefficient.checked_ilog10().map_or(0, |log| log + 1)
    }

    /// Exponent of the first digit.
    fn magnitude(&self) -> i32 {
        self.exponent + self.digits().cast_signed() - 1
    }

    /// Bytes that count towards an item's size: one for each two significant digits before the point and each two after it,
    /// one more, one for a sign.
    pub(super) fn size(&self) -> usize {
        let digits = self.digits();
        // Zeros at the end are no digits here: of a whole number all are before the point.
        let whole = digits.saturating_add_signed(self.exponent.min(0));
        let pairs = whole.div_ceil(2) + (digits - whole).div_ceil(2);
        pairs as usize + 1 + usize::from(self.negative)
    }

    /// `self + other`.
    pub(super) fn add(self, other: Self) -> Result<Self, NumberError> {
        match self.add_fast(other) {
            Some((negative, coefficient, exponent)) => Self::normalised(negative, coefficient, exponent),
            None => Self::from_decimal(&(self.to_decimal() + other.to_decimal())),
        }
    }

    /// `self - other`.
    pub(super) fn subtract(self, other: Self) -> Result<Self, NumberError> {
        if other.coefficient == 0 {
            return Ok(self);
        }
        self.add(Self { negative: !other.negative, ..other })
    }

    fn add_fast(self, other: Self) -> Option<(bool, u128, i32)> {
        let exponent = self.exponent.min(other.exponent);
        let scaled = |number: Self| -> Option<i128> {
            let shift = u32::try_from(number.exponent - exponent).ok()?;
            let value = i128::try_from(number.coefficient.checked_mul(10u128.checked_pow(shift)?)?).ok()?;
            Some(if number.negative { -value } else { value })
        };
        let sum = scaled(self)?.checked_add(scaled(other)?)?;
        Some((sum < 0, sum.unsigned_abs(), exponent))
    }

    /// The same value in arbitrary precision.
    pub(super) fn to_decimal(self) -> BigDecimal {
        let coefficient = BigInt::from(self.coefficient);
        let coefficient = if self.negative { -coefficient } else { coefficient };
        BigDecimal::new(coefficient, i64::from(-self.exponent))
    }

    fn from_decimal(decimal: &BigDecimal) -> Result<Self, NumberError> {
        let (coefficient, scale) = decimal.as_bigint_and_exponent();
        let text = coefficient.to_string();
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.as_str()),
        };
        Self::from_digits(negative, digits.bytes(), -scale)
    }

    /// Appends the order-preserving form.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        if self.coefficient == 0 {
            out.push(2);
            return;
        }
        let flip = if self.negative { 0xff } else { 0 };
        out.push(if self.negative { 1 } else { 3 });
        let exponent = u8::try_from(self.magnitude() - EXPONENT_MIN).unwrap_or(u8::MAX);
        out.push(exponent ^ flip);
        let mut digits = self.digits();
        let mut rest = self.coefficient;
        if digits % 2 == 1 {
            rest *= 10;
            digits += 1;
        }
        while digits > 0 {
            digits -= 2;
            let unit = 10u128.pow(digits);
            let pair = u8::try_from(rest / unit).unwrap_or(99);
            rest %= unit;
            out.push((pair + 1) ^ flip);
        }
        out.push(flip);
    }

    /// Reads the order-preserving form; returns the number and what follows it.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (sign, mut rest) = bytes.split_first()?;
        let flip = match sign {
            1 => 0xff,
            2 => return Some((Self::ZERO, rest)),
            3 => 0,
            _ => return None,
        };
        let (exponent, after) = rest.split_first()?;
        rest = after;
        let magnitude = i32::from(exponent ^ flip) + EXPONENT_MIN;
        let mut coefficient = 0u128;
        let mut digits = 0;
        loop {
            let (byte, after) = rest.split_first()?;
            rest = after;
            match byte ^ flip {
                0 => break,
                pair @ 1..=100 if digits < DIGITS_MAX => coefficient = coefficient * 100 + u128::from(pair - 1),
                _ => return None,
            }
            digits += 2;
        }
        // Half a pair of a number with an odd count of digits is a zero that normalisation takes away again.
        let number = Self::normalised(flip != 0, coefficient, magnitude - digits.cast_signed() + 1).ok()?;
        (number.magnitude() == magnitude && coefficient != 0).then_some((number, rest))
    }
}

fn parse_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Beyond a million every number is out of range, whatever its digits.
    let value = digits.parse::<i64>().unwrap_or(i64::MAX).min(1_000_000);
    Some(if text.starts_with('-') { -value } else { value })
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.coefficient, number.negative) {
            (0, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        };
        let by_size = || {
            let aligned = |number: &Self| number.coefficient * 10u128.pow(DIGITS_MAX - number.digits());
            self.magnitude().cmp(&other.magnitude()).then_with(|| aligned(self).cmp(&aligned(other)))
        };
        sign(self).cmp(&sign(other)).then_with(|| match sign(self) {
            0 => Ordering::Equal,
            1 => by_size(),
            _ => by_size().reverse(),
        })
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Number {
    /// Plain digits, without exponent and without zeros that say nothing: as DynamoDB answers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negative {
            f.write_str("-")?;
        }
        let digits = self.coefficient.to_string();
        if self.exponent >= 0 {
            let zeros = usize::try_from(self.exponent).unwrap_or(0);
            return write!(f, "{digits}{:0<zeros$}", "");
        }
        let fraction = usize::try_from(-self.exponent).unwrap_or(0);
        match digits.len().checked_sub(fraction) {
            Some(whole) if whole > 0 => write!(f, "{}.{}", &digits[..whole], &digits[whole..]),
            _ => write!(f, "0.{digits:0>fraction$}"),
        }
    }
}
