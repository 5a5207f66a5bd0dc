//! Policies of keeping environments, compared over generated days. Start reading at `replay`.

mod compare;
mod replay;
mod trace;
