//! Sample values of any message: a deserializer that reads no bytes but makes values up.
//!
//! Numbers count upwards, so that two fields that change places change the bytes. A choice (a
//! variant, whether an option is there, whether a list is empty) is taken from the seed; over
//! all seeds of a type every variant of every enum in it occurs.

use serde::de::value::{Error, U32Deserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer,
    SeqAccess, VariantAccess, Visitor,
};

/// Samples of a type, always the same ones.
pub(crate) fn samples<T: DeserializeOwned>() -> Vec<T> {
    let mut samples = Vec::new();
    let mut seeds = 1;
    while samples.len() < seeds {
        let mut make = |empty_lists| {
            let mut sampler = Sampler {
                seed: samples.len(),
                empty_lists,
                count: 0,
                choices: seeds,
            };
            let sample = T::deserialize(&mut sampler);
            seeds = sampler.choices;
            sample
        };
        // Some lists may not be empty: names.
        let sample = make(true).or_else(|_| make(false));
        samples.push(sample.expect("every message can be made up"));
    }
    samples
}

struct Sampler {
    seed: usize,
    /// Whether lists may be empty.
    empty_lists: bool,
    count: u64,
    /// The most that there was to choose from.
    choices: usize,
}

impl Sampler {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// One of `0..choices`; all come in turn as the seed rises.
    fn choose(&mut self, choices: usize) -> usize {
        self.choices = self.choices.max(choices);
        self.seed % choices
    }
}

macro_rules! number {
    ($($method:ident $visit:ident $type:ty, $base:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit($base + self.next() as $type)
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Sampler {
    type Error = Error;

    number! {
        // Letters: bytes of names are among them.
        deserialize_u8 visit_u8 u8, 96;
        deserialize_u16 visit_u16 u16, 1_000;
        deserialize_u32 visit_u32 u32, 100_000;
        deserialize_u64 visit_u64 u64, 10_000_000_000;
        deserialize_u128 visit_u128 u128, 10_000_000_000_000_000_000_000;
        deserialize_i64 visit_i64 i64, -10_000_000_000;
        deserialize_i128 visit_i128 i128, -10_000_000_000_000_000_000_000;
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.choose(2) == 0)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(format!("text {}", self.next()))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_byte_buf(format!("bytes {}", self.next()).into_bytes())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.choose(2) {
            0 => visitor.visit_some(self),
            _ => visitor.visit_none(),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let empty = self.choose(2) == 1 && self.empty_lists;
        let left = if empty { 0 } else { 2 };
        visitor.visit_seq(Items {
            sampler: self,
            left,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items {
            sampler: self,
            left: len,
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let index = self.choose(variants.len()) as u32;
        visitor.visit_enum(Variant {
            sampler: self,
            index,
        })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("no message holds such a type"))
    }

    serde::forward_to_deserialize_any! { i8 i16 i32 f32 f64 char map identifier ignored_any }
}

struct Items<'a> {
    sampler: &'a mut Sampler,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.sampler).map(Some)
    }
}

struct Variant<'a> {
    sampler: &'a mut Sampler,
    index: u32,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Error> {
        let index: U32Deserializer<Error> = self.index.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.sampler)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.sampler.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.sampler.deserialize_tuple(fields.len(), visitor)
    }
}
