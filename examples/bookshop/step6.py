"""Step 6: sessions are in the database, with their copies in the cache."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select, update

from neverstale import AsyncCache
from neverstale.computed import AsyncComputed
from neverstale.sessions import AsyncSessions
from neverstale.web.asgi import ResponseCacheMiddleware, Rule
from neverstale.web.sessions import SessionMiddleware

from .database import Book, Sale, engine, make_session
from .store import Store


class BookView(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    title: str
    price: int
    stock: int


class Bestseller(BaseModel):
    title: str
    copies: int


cache = AsyncCache.from_env(namespace="bookshop")  # REDIS_URL, or localhost:6379
computed = AsyncComputed(cache)
sessions = AsyncSessions(cache, store=Store(make_session), type=dict[str, Any])


@asynccontextmanager
async def life(app: FastAPI) -> AsyncIterator[None]:
    async with cache:
        yield
    await engine.dispose()


RULES = [
    Rule("/books/{book_id:int}", ttl=300, tags=["book:{book_id}"], public=True),
    Rule("/genres/{genre:str}", ttl=300, tags=["genre:{genre}"], public=True),
]

app = FastAPI(lifespan=life)
app.add_middleware(SessionMiddleware, sessions=sessions, secure=False)  # True, the default, with https
app.add_middleware(ResponseCacheMiddleware, cache=cache, rules=RULES)


@app.get("/health")
async def health() -> dict[str, Any]:
    return (await cache.health()).as_dict()


@app.get("/books/{book_id}")
async def book(book_id: int) -> BookView:
    async with make_session() as db:
        found = await db.get(Book, book_id)
    if found is None:
        raise HTTPException(404)
    return BookView.model_validate(found)


@app.get("/genres/{genre}")
async def shelf(genre: str) -> list[BookView]:
    async with make_session() as db:
        found = await db.scalars(select(Book).where(Book.genre == genre).order_by(Book.id).limit(20))
        return [BookView.model_validate(each) for each in found]


@computed.memoized(ttl=300, soft_ttl=5, stale_if_error=3600)
async def find_bestsellers() -> list[Bestseller]:
    copies = func.sum(Sale.copies)
    query = select(Book.title, copies).join(Sale, Sale.book_id == Book.id).group_by(Book.id)
    async with make_session() as db:
        rows = await db.execute(query.order_by(copies.desc(), Book.id).limit(10))
        return [Bestseller(title=title, copies=sold) for title, sold in rows]


@app.get("/bestsellers")
async def bestsellers() -> list[Bestseller]:
    return await find_bestsellers()


@app.put("/books/{book_id}/price")
async def set_price(book_id: int, price: int) -> None:
    async with make_session.begin() as db:
        found = await db.get(Book, book_id)
        if found is None:
            raise HTTPException(404)
        found.price = price
    await cache.invalidate_tags(f"book:{book_id}", f"genre:{found.genre}", reason="price")


@app.post("/orders")
async def order(book_id: int, copies: int) -> None:
    async with make_session.begin() as db:
        db.add(Sale(book_id=book_id, copies=copies, sold_at=datetime.now()))
        sold = update(Book).where(Book.id == book_id).values(stock=Book.stock - copies)
        genre = (await db.scalars(sold.returning(Book.genre))).one()
    await cache.invalidate_tags(f"book:{book_id}", f"genre:{genre}", reason="order")


@app.post("/login")
async def log_in(name: str, request: Request) -> None:
    await request.state.session.log_in(user=name)


@app.get("/me")
async def me(request: Request) -> str:
    reader: str | None = request.state.session.user
    if reader is None:
        raise HTTPException(401)
    return reader
