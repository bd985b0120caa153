//! How the project is tested.
