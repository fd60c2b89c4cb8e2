"""Step 1: the application knows its Redis, and says on /health how that is."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

from fastapi import Cookie, FastAPI, HTTPException, Response
from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select, update

from neverstale import AsyncCache

from .database import Book, Login, Sale, engine, make_session


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


@asynccontextmanager
async def life(app: FastAPI) -> AsyncIterator[None]:
    async with cache:
        yield
    await engine.dispose()


app = FastAPI(lifespan=life)


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


@app.get("/bestsellers")
async def bestsellers() -> list[Bestseller]:
    copies = func.sum(Sale.copies)
    query = select(Book.title, copies).join(Sale, Sale.book_id == Book.id).group_by(Book.id)
    async with make_session() as db:
        rows = await db.execute(query.order_by(copies.desc(), Book.id).limit(10))
        return [Bestseller(title=title, copies=sold) for title, sold in rows]


@app.put("/books/{book_id}/price")
async def set_price(book_id: int, price: int) -> None:
    async with make_session.begin() as db:
        found = await db.get(Book, book_id)
        if found is None:
            raise HTTPException(404)
        found.price = price


@app.post("/orders")
async def order(book_id: int, copies: int) -> None:
    async with make_session.begin() as db:
        db.add(Sale(book_id=book_id, copies=copies, sold_at=datetime.now()))
        await db.execute(update(Book).where(Book.id == book_id).values(stock=Book.stock - copies))


@app.post("/login")
async def log_in(name: str, response: Response) -> None:
    token = secrets.token_urlsafe()
    async with make_session.begin() as db:
        db.add(Login(token=token, reader=name))
    response.set_cookie("session", token, httponly=True)


@app.get("/me")
async def me(session: Annotated[str, Cookie()] = "") -> str:
    async with make_session() as db:
        login = await db.get(Login, session)
    if login is None:
        raise HTTPException(401)
    return login.reader
